"""`unclip reconstruct`: a picture from the first components of z_i (figure 7 of the paper)."""

import argparse

from pipelines.cli.images import read_picture
from pipelines.cli.models import find_project
from pipelines.cli.session import open_studio
from pipelines.core.errors import PipelineError
from pipelines.evaluation.labelled import in_rows


def run(arguments: argparse.Namespace) -> None:
    """Write the original and what is left of it, with x_T as it was and with a random one."""
    counts = _counts(arguments.components)
    project = find_project(arguments)
    if project is None:
        raise PipelineError(
            "reconstruct needs a PCA basis of image embeddings, which a folder of models has not; "
            "leave --models away to take a project's, whose stage pca makes one."
        )
    picture = read_picture(arguments.image, project)
    studio = open_studio(arguments, project, "pca")

    from pipelines.artifacts import PcaBasisFile
    from pipelines.core.stage import load_artifact
    from pipelines.stages.pca import load_basis
    from unclip.manipulate import Latent, pca_reconstruct
    from unclip.samplers import randn

    stored = load_artifact(project.store, project.graph["pca"])
    assert isinstance(stored, PcaBasisFile)
    shown = sorted({min(count, stored.width) for count in counts})
    latent = studio.latent(picture)
    shape = tuple(latent.noise.shape)
    random = randn(shape, generator=studio.generator(), device=studio.cascade.device)
    rows = []
    for name, noise in (("its x_T", latent.noise), ("random x_T", random)):
        made = pca_reconstruct(
            studio.cascade,
            Latent(latent.image_embeds, noise),
            load_basis(stored),
            components=shown,
        )
        labels = [f"{count} of {stored.width}, {name}" for count in shown]
        rows += in_rows([studio.original(picture), *studio.tiles(made, labels)], 9)
    studio.finish(rows)


def _counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise PipelineError(
            f"--components {text} are not positive whole numbers with commas between; give, for "
            "example, 1,4,16,64."
        )
    return [int(word) for word in words]
