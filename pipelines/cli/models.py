"""The models that the commands draw with: those of a project, or of a folder (`--models`)."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli.common import Project, open_project
from pipelines.cli.main import DEFAULT_CONFIG
from pipelines.core.errors import PipelineError

if TYPE_CHECKING:
    from unclip.pipeline import UnclipPipeline

MODELS = ("clip", "prior", "decoder", "upsampler_1", "upsampler_2")


def find_project(arguments: argparse.Namespace) -> Project | None:
    """The project, or None where `--models` stands in its place."""
    if arguments.models is None:
        return open_project(arguments)
    given = {
        f"CONFIG {arguments.config}": arguments.config != DEFAULT_CONFIG,
        "--store": arguments.store is not None,
        "--set": bool(arguments.overrides),
    }
    if any(given.values()):
        raise PipelineError(
            f"--models {arguments.models} stands in the place of a project, so "
            f"{', '.join(flag for flag, is_given in given.items() if is_given)} would change "
            "nothing; give one or the other. How to sample is in the folder's sampling.json."
        )
    return None


def check_models(arguments: argparse.Namespace, project: Project | None, *also: str) -> None:
    """Raise `PipelineError` or `ConfigError` where a model is not there; loads nothing.

    also: stages of the project that are asked for beside the models.
    """
    if project is None:
        from unclip.pipeline import check_folder

        check_folder(Path(arguments.models))
        return
    stages = [project.graph[name] for name in (*_models_of(project), *also)]
    absent = [s.name for s in stages if project.store.manifest(s.name, s.key) is None]
    if absent:
        raise PipelineError(
            f"{', '.join(absent)}: not in {project.store.root} for this configuration. Train them "
            "first with `unclip run`, name the configuration and store that they were made with, "
            "or give a folder of models with --models."
        )


def open_models(arguments: argparse.Namespace, project: Project | None) -> "UnclipPipeline":
    """The models in this process, without Ray."""
    if project is None:
        import torch

        from unclip.pipeline import UnclipPipeline

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return UnclipPipeline.load(arguments.models, device=device)
    return _open_store(project)


def _open_store(project: Project) -> "UnclipPipeline":
    from pipelines.core.stage import load_artifact
    from pipelines.evaluation.generate import GenerationWorker, Weights

    names = _models_of(project)
    found = {name: load_artifact(project.store, project.graph[name]) for name in names}
    stage = project.graph["evaluate"]
    folder = project.store.folder(stage.name, stage.key)
    return GenerationWorker(Weights(**found), project.config.evaluate, folder).pipeline  # type: ignore[arg-type]


def _models_of(project: Project) -> list[str]:
    """A cascade may do with one upsampler."""
    return [name for name in MODELS if name in project.graph.stages]
