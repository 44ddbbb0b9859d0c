"""`unclip variations`: pictures that share what CLIP sees of one (figure 3 of the paper)."""

import argparse

from pipelines.cli.images import read_picture
from pipelines.cli.models import find_project
from pipelines.cli.session import open_studio
from pipelines.evaluation.grids import in_rows


def run(arguments: argparse.Namespace) -> None:
    """Write the original, its reconstruction and its variations."""
    project = find_project(arguments)
    picture = read_picture(arguments.image, project)
    studio = open_studio(arguments, project)

    from unclip.manipulate import decode, variations

    latent = studio.latent(picture)
    varied = variations(
        studio.cascade,
        latent,
        count=arguments.count,
        eta=arguments.eta,
        generator=studio.generator(),
    )
    tiles = [
        studio.original(picture),
        *studio.tiles(decode(studio.cascade, latent), ["reconstruction, eta 0"]),
        *studio.tiles(varied, [f"eta {arguments.eta:g}, no. {n + 1}" for n in range(len(varied))]),
    ]
    studio.finish(in_rows(tiles))
