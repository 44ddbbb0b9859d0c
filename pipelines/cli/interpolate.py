"""`unclip interpolate`: from one picture to another (figure 4 of the paper)."""

import argparse

from pipelines.cli.images import read_picture
from pipelines.cli.models import find_project
from pipelines.cli.session import open_studio
from pipelines.core.errors import PipelineError
from pipelines.evaluation.grids import Tile


def run(arguments: argparse.Namespace) -> None:
    """Write a row in which x_T turns with z_i, and a row of one random x_T."""
    if arguments.count < 2:
        raise PipelineError(f"--count {arguments.count} has no two ends; give 2 or more.")
    project = find_project(arguments)
    start, end = (read_picture(name, project) for name in (arguments.image, arguments.other))
    studio = open_studio(arguments, project)

    import torch

    from unclip.manipulate import interpolate
    from unclip.samplers import randn

    cascade, ends = studio.cascade, (studio.latent(start), studio.latent(end))
    shape = tuple(ends[0].noise.shape)
    one = randn(shape, generator=studio.generator(), device=studio.cascade.device)
    weights = torch.linspace(0, 1, arguments.count)
    rows: list[list[Tile]] = []
    for name, noise in (("x_T between", None), ("one random x_T", one)):
        labels = [f"{weight:.2f}, {name}" for weight in weights.tolist()]
        walk = studio.tiles(interpolate(cascade, *ends, weights=weights, noise=noise), labels)
        rows.append([studio.original(start), *walk, studio.original(end)])
    studio.finish(rows)
