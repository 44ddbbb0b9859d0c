"""`unclip importance`: what the decoder makes of a caption without a prior (figure 8)."""

import argparse

from pipelines.cli.images import read_picture
from pipelines.cli.models import find_project
from pipelines.cli.session import check_words, open_studio
from pipelines.evaluation.grids import Tile

LABELS = {  # condition → the label below its pictures
    "caption": "caption alone",
    "text embedding": "caption, z_t for z_i",
    "prior": "caption, z_i of the prior",
    "true embedding": "caption, true z_i",
}


def run(arguments: argparse.Namespace) -> None:
    """Write a row for each condition; pictures in a column share their noise."""
    check_words("The caption", arguments.caption)
    project = find_project(arguments)
    picture = read_picture(arguments.image, project) if arguments.image else None
    studio = open_studio(arguments, project)

    from unclip.manipulate import importance_of_the_prior

    captions = [arguments.caption] * arguments.count
    true = studio.image_embeds(picture).expand(arguments.count, -1) if picture else None
    made = importance_of_the_prior(
        studio.cascade,
        studio.pipeline.tokenize(captions),
        studio.pipeline.text_embeds(captions),
        true,
        generator=studio.generator(),
    )
    rows: list[list[Tile]] = []
    for name, pixels in made.items():
        rows.append(studio.tiles(pixels, [LABELS[name]] * arguments.count))
        if name == "true embedding" and picture:
            rows[-1].append(studio.original(picture, "the true picture"))
    studio.finish(rows)
