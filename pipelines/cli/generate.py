"""`unclip generate`: pictures of a caption, from the trained models, without Ray."""

import argparse
from pathlib import Path

from pipelines.cli.common import Project, target_of
from pipelines.cli.models import check_models, find_project, open_models
from pipelines.core.errors import PipelineError

COLUMNS = 4
TILE_SIZE = 128  # pixels; smaller pictures are enlarged for a person to see


def run(arguments: argparse.Namespace) -> None:
    """Write a grid of pictures. Raises `PipelineError` before anything is loaded."""
    if arguments.count < 1:
        raise PipelineError(f"--count {arguments.count} makes no picture; give 1 or more.")
    if not arguments.caption.strip():
        raise PipelineError('The caption is empty; give one, such as "a red heart".')
    target = target_of(arguments)
    project = find_project(arguments)
    check_models(arguments, project)
    _draw(project, arguments, target)
    print(f"Wrote {target}: {arguments.count} times {arguments.caption!r}, seed {arguments.seed}.")


def _draw(project: Project | None, arguments: argparse.Namespace, target: Path) -> None:
    import torch
    from torch.nn import functional as F
    from torchvision.utils import save_image

    pipeline = open_models(arguments, project)
    made = pipeline.generate(
        [arguments.caption] * arguments.count,
        generator=torch.Generator(pipeline.cascade.device).manual_seed(arguments.seed),
    )
    pixels = made.pixels[-1].float()
    scale = max(1, TILE_SIZE // pixels.shape[-1])
    tiles = F.interpolate(pixels, scale_factor=scale, mode="bicubic").clamp(-1, 1)
    save_image(tiles, target, nrow=COLUMNS, normalize=True, value_range=(-1, 1))
