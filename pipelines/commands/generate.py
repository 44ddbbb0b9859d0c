"""`unclip generate`: pictures of a caption, from the trained models, without Ray."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands.common import Project, open_project
from pipelines.core.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.evaluation.generate import Weights

MODELS = ("clip", "prior", "decoder", "upsampler_1", "upsampler_2")
COLUMNS = 4
TILE_SIZE = 128  # pixels; smaller pictures are enlarged for a person to see


def run(arguments: argparse.Namespace) -> None:
    """Write a grid of pictures. Raises `PipelineError` before anything is loaded."""
    if arguments.count < 1:
        raise PipelineError(f"--count {arguments.count} makes no picture; give 1 or more.")
    if not arguments.caption.strip():
        raise PipelineError('The caption is empty; give one, such as "a red heart".')
    target = Path(arguments.out)
    if not target.parent.is_dir():
        raise PipelineError(f"There is no folder {target.parent} to write {target.name} into.")
    project = open_project(arguments)
    _check_trained(project)
    _draw(project, arguments, target)
    print(f"Wrote {target}: {arguments.count} times {arguments.caption!r}, seed {arguments.seed}.")


def _check_trained(project: Project) -> None:
    stages = [project.graph[name] for name in MODELS]
    absent = [s.name for s in stages if project.store.manifest(s.name, s.key) is None]
    if absent:
        raise PipelineError(
            f"{', '.join(absent)}: not in {project.store.root} for this configuration. Train them "
            "first with `unclip run`, or name the configuration and store that they were made with."
        )


def _draw(project: Project, arguments: argparse.Namespace, target: Path) -> None:
    import torch
    from torch.nn import functional as F
    from torchvision.utils import save_image

    from pipelines.evaluation.generate import GenerationWorker

    stage = project.graph["evaluate"]
    folder = project.store.folder(stage.name, stage.key)
    worker = GenerationWorker(_weights(project), project.config.evaluate, folder)
    captions = [arguments.caption] * arguments.count
    made = worker.cascade.generate(
        worker.tokenizer(captions).to(worker.device),
        worker.clip.encode_texts(captions),
        generator=torch.Generator(worker.device).manual_seed(arguments.seed),
    )
    pixels = made.pixels[-1].float()
    scale = max(1, TILE_SIZE // pixels.shape[-1])
    tiles = F.interpolate(pixels, scale_factor=scale, mode="bicubic").clamp(-1, 1)
    save_image(tiles, target, nrow=COLUMNS, normalize=True, value_range=(-1, 1))


def _weights(project: Project) -> "Weights":
    from pipelines.core.runner import load_artifact
    from pipelines.evaluation.generate import Weights

    found = {name: load_artifact(project.store, project.graph[name]) for name in MODELS}
    return Weights(**found)  # type: ignore[arg-type]
