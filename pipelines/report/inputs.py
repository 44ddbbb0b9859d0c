"""The artifacts and stages that the report is made from."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    Evaluation,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    TrainedModel,
    VerdictShards,
)
from pipelines.core.folder import Folder


@dataclass(frozen=True)
class Lineage:
    """One stage that the report depends on."""

    stage: str
    key: str
    made_from: tuple[str, ...]  # names of stages


@dataclass(frozen=True)
class Inputs:
    """Every artifact that the report reads, and the stages behind them."""

    evaluation: Evaluation
    pairs: PairShards
    verdicts: VerdictShards
    embeddings: EmbeddingShards
    selection: SelectionShards
    pca: PcaBasisFile
    clip: ClipWeights
    priors: Mapping[str, TrainedModel]  # by name; the first drew the images
    decoder: TrainedModel
    upsamplers: Mapping[str, TrainedModel]  # by name, in the order of their use
    lineage: tuple[Lineage, ...]  # in dependency order

    @property
    def models(self) -> dict[str, TrainedModel]:
        """The trained models by name."""
        return {**self.priors, "decoder": self.decoder, **self.upsamplers}

    @property
    def folders(self) -> dict[str, Folder]:
        """The folder of each stage that was read, by the stage's name."""
        artifacts = (
            self.evaluation,
            self.pairs,
            self.verdicts,
            self.embeddings,
            self.selection,
            self.pca,
            self.clip,
            *self.models.values(),
        )
        # The path of a stage's folder ends in "stage/key".
        return {a.folder.url.rstrip("/").split("/")[-2]: a.folder for a in artifacts}
