"""The models that a command uses: a project's, or those of a folder (`--models`)."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli.options import ModelChoice

if TYPE_CHECKING:
    from pipelines.cli.project import Project
    from unclip.generation import SamplingConfig
    from unclip.pipeline import UnclipPipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """Where models come from: exactly one of a project and a folder."""

    project: "Project | None"
    folder: Path | None

    def check(self, *required_stages: str) -> "SamplingConfig":
        """Raise `PipelineError` or `UnclipError` if a model is missing; loads nothing.

        required_stages: stages of the project whose results are needed besides the models. Returns
        the sampling settings of the models.
        """
        if self.project is not None:
            self.project.find([*self.project.model_stages, *required_stages])
            return self.project.config.evaluate.sampling
        assert self.folder is not None
        from unclip.pretrained.folder import read_settings

        return read_settings(self.folder)  # `load` checks the weights

    def load(self) -> "UnclipPipeline":
        """Load the models in this process, without Ray; on the GPU if there is one."""
        import torch

        from unclip.pipeline import UnclipPipeline

        if self.project is not None:
            return _load_from_store(self.project)
        assert self.folder is not None
        device = "cuda" if torch.cuda.is_available() else "cpu"
        log.info("loading the models of %s on %s", self.folder, device)
        return UnclipPipeline.from_pretrained(self.folder, device=device)


def open_models(choice: ModelChoice) -> ModelSource:
    """Open the project, or find the folder; raises `ConfigError` if there is none."""
    if choice.project is not None:
        from pipelines.cli.project import open_project  # pydantic and the graph: half a second

        return ModelSource(open_project(choice.project), None)
    from unclip.pretrained import find_folder

    assert choice.name is not None
    return ModelSource(None, find_folder(choice.name))


def _load_from_store(project: "Project") -> "UnclipPipeline":
    import torch

    from pipelines.evaluation.pipeline import load_pipeline, with_noise_norms

    config, device = project.config.evaluate, "cuda" if torch.cuda.is_available() else "cpu"
    found = project.find(project.model_stages)
    log.info("loading %s of %s", ", ".join(project.model_stages), project.store.root)
    pipeline = load_pipeline(project.load_weights(found), config.sampling, torch.device(device))
    return with_noise_norms(pipeline, found.folder(project.evaluation.name), seed=config.seed)
