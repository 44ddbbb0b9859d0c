"""The artifacts and stages that the report is made from."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.artifacts import ClipWeights, DataReport, Evaluation, TrainedModel
from pipelines.core.folder import Folder


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

    @property
    def models(self) -> dict[str, TrainedModel]:
        """The trained models by name."""
        return {**self.priors, "decoder": self.decoder, **self.upsamplers}
