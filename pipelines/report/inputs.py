"""The artifacts and stages that the report is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipelines.artifacts import (
    HISTORY_FILE,
    STUDY_FILE,
    TRAINING_FILE,
    ClipWeights,
    DataReport,
    Evaluation,
    Study,
    TrainedModel,
)
from pipelines.core.folder import Folder
from pipelines.report.data_page import FIGURES_FILE, PICTURES_FILE


@dataclass(frozen=True)
class Lineage:
    """One stage that the report depends on."""

    stage: str
    key: str
    made_from: tuple[str, ...]  # names of stages
    folder: Folder


@dataclass(frozen=True)
class Inputs:
    """Every artifact that the report reads, and the stages behind them."""

    evaluation: Evaluation
    data: DataReport
    clip: ClipWeights
    priors: Mapping[str, TrainedModel]  # by name; the first drew the images
    decoder: TrainedModel
    upsamplers: Mapping[str, TrainedModel]  # by name, in the order of their use
    lineage: tuple[Lineage, ...]  # in dependency order
    baselines: Mapping[str, TrainedModel] = field(default_factory=dict)  # of the study, by name
    study: Study | None = None

    @cached_property
    def data_figures(self) -> dict[str, Any]:
        """The figures of the data report."""
        figures: dict[str, Any] = self.data.folder.read_json(FIGURES_FILE)
        return figures

    @cached_property
    def data_pictures(self) -> dict[str, Any]:
        """The pictures of the data report, as data URIs."""
        pictures: dict[str, Any] = self.data.folder.read_json(PICTURES_FILE)
        return pictures

    @cached_property
    def study_figures(self) -> dict[str, Any]:
        """The records of the study; empty lists without one."""
        if self.study is None:
            return {"variants": [], "scenes": []}
        figures: dict[str, Any] = self.study.folder.read_json(STUDY_FILE)
        return figures

    @cached_property
    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """By model, the values logged during its training; the CLIP first, unless pretrained."""
        found = {name: _history(model.folder) for name, model in self.models.items()}
        of_clip = _history(self.clip.folder)
        return {"clip": of_clip, **found} if of_clip else found

    @cached_property
    def clip_training(self) -> TrainedModel | None:
        """The training of the CLIP; None if it is pretrained."""
        folder = self.clip.folder
        return TrainedModel.read(folder, "clip") if folder.exists(TRAINING_FILE) else None

    @property
    def steps(self) -> dict[str, int]:
        """By model, the steps of its training."""
        clip = self.clip_training
        steps = {name: model.steps for name, model in self.models.items()}
        return {"clip": clip.steps, **steps} if clip else steps

    @property
    def models(self) -> dict[str, TrainedModel]:
        """The trained models by name."""
        return {**self.priors, "decoder": self.decoder, **self.upsamplers, **self.baselines}


def _history(folder: Folder) -> list[dict[str, Any]]:
    """Empty if there is no log."""
    if not folder.exists(HISTORY_FILE):
        return []
    history: list[dict[str, Any]] = folder.read_json(HISTORY_FILE)
    return history
