"""`unclip edit`: turn a picture towards a caption (figure 5 of the paper)."""

import argparse

from pipelines.cli.images import read_picture
from pipelines.cli.models import find_project
from pipelines.cli.session import check_words, open_studio
from pipelines.core.errors import PipelineError
from pipelines.evaluation.grids import in_rows


def run(arguments: argparse.Namespace) -> None:
    """Write the original and the steps of its turn."""
    check_words("--to", arguments.to)
    check_words("--from-text", arguments.from_text)
    if arguments.to == arguments.from_text:
        raise PipelineError(
            f"--to and --from-text are both {arguments.to!r}, which names no direction; give "
            "--from-text another caption, or leave it out."
        )
    if arguments.count < 2:
        raise PipelineError(
            f"--count {arguments.count} leaves no turn to see, because the first picture is not "
            "turned yet; give 2 or more."
        )
    if not 0 < arguments.strength <= 1:
        raise PipelineError(
            f"--strength {arguments.strength} must be more than 0 and at most 1; the paper takes "
            "0.25 to 0.5."
        )
    project = find_project(arguments)
    picture = read_picture(arguments.image, project)
    studio = open_studio(arguments, project)

    import torch

    from unclip.manipulate import text_diff

    thetas = torch.linspace(0, arguments.strength, arguments.count)
    before = [arguments.from_text] if arguments.from_text else []
    edited = text_diff(
        studio.cascade,
        studio.latent(picture),
        studio.pipeline.text_embeds([arguments.to]),
        from_text_embeds=studio.pipeline.text_embeds(before) if before else None,
        thetas=thetas,
    )
    labels = [f"{theta:.2f} to {arguments.to!r}" for theta in thetas.tolist()]
    studio.finish(in_rows([studio.original(picture), *studio.tiles(edited, labels)], 9))
