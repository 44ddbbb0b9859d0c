"""The artifacts that an evaluation reads."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    PairShards,
    SelectionShards,
    TrainedModel,
)


@dataclass(frozen=True)
class Sources:
    """The artifacts that rows are gathered from."""

    pairs: PairShards
    embeddings: EmbeddingShards
    selection: SelectionShards


@dataclass(frozen=True)
class Weights:
    """The trained models of a cascade, by name, and the CLIP that they were trained with."""

    clip: ClipWeights
    priors: Mapping[str, TrainedModel]  # the first draws the images; may be empty
    decoder: TrainedModel
    upsamplers: Mapping[str, TrainedModel]  # in the order of their use; may be empty

    @property
    def prior(self) -> TrainedModel | None:
        """The prior that draws the images."""
        return next(iter(self.priors.values()), None)

    @property
    def other_priors(self) -> dict[str, TrainedModel]:
        """All priors but the first, by name; they are only measured."""
        return dict(list(self.priors.items())[1:])
