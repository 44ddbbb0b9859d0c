"""The trained models of a project, for the commands that draw."""

from typing import TYPE_CHECKING

from pipelines.commands.common import Project
from pipelines.core.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.evaluation.generate import GenerationWorker

MODELS = ("clip", "prior", "decoder", "upsampler_1", "upsampler_2")


def check_trained(project: Project, *also: str) -> None:
    """Raise `PipelineError` where a model, or `also` a stage, is not in the store."""
    stages = [project.graph[name] for name in (*_models_of(project), *also)]
    absent = [s.name for s in stages if project.store.manifest(s.name, s.key) is None]
    if absent:
        raise PipelineError(
            f"{', '.join(absent)}: not in {project.store.root} for this configuration. Train them "
            "first with `unclip run`, or name the configuration and store that they were made with."
        )


def open_models(project: Project) -> "GenerationWorker":
    """The models in this process, without Ray; each is loaded on first use."""
    from pipelines.core.runner import load_artifact
    from pipelines.evaluation.generate import GenerationWorker, Weights

    names = _models_of(project)
    found = {name: load_artifact(project.store, project.graph[name]) for name in names}
    stage = project.graph["evaluate"]
    folder = project.store.folder(stage.name, stage.key)
    return GenerationWorker(Weights(**found), project.config.evaluate, folder)  # type: ignore[arg-type]


def _models_of(project: Project) -> list[str]:
    """A cascade may do with one upsampler."""
    return [name for name in MODELS if name in project.graph.stages]
