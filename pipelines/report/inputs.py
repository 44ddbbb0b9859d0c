"""The artifacts and stages that the report is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipelines.artifacts import ClipWeights, DataReport, Evaluation, Study, TrainedModel
from pipelines.core.folder import Folder
from pipelines.report.data_page import FIGURES_FILE, PICTURES_FILE
from pipelines.study.study import STUDY_FILE


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

    @property
    def models(self) -> dict[str, TrainedModel]:
        """The trained models by name."""
        return {**self.priors, "decoder": self.decoder, **self.upsamplers, **self.baselines}
