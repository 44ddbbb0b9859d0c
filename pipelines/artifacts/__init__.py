"""The artifacts that stages pass to each other: typed, and small enough for a manifest."""

from dataclasses import dataclass

import pyarrow as pa

from pipelines.artifacts.schema import PAIRS, SELECTION, embeddings
from pipelines.core.stage import Artifact, Shards

EXAMPLES_PER_REASON = 3  # of rejected rows, beside their counts
MODEL_FILE = "model.safetensors"  # of every trained model of the cascade


@dataclass(frozen=True)
class PairShards(Shards):
    """Image-text pairs (`schema.PAIRS`); `counts` holds what was rejected, by reason."""

    def schema(self) -> pa.Schema:
        """The schema that every shard has."""
        return PAIRS


@dataclass(frozen=True)
class ClipWeights(Artifact):
    """A frozen CLIP: the files in this folder that `unclip.clip.frozen.FrozenClip.load` reads."""

    name: str  # architecture and source of the weights
    digest: str  # of architecture and weights
    width: int  # of the embeddings
    image_size: int
    context_length: int


@dataclass(frozen=True)
class EmbeddingShards(Shards):
    """CLIP embeddings (`schema.embeddings(width)`), row-aligned with the pairs."""

    width: int
    clip_name: str
    clip_digest: str

    def schema(self) -> pa.Schema:
        """The schema that every shard has."""
        return embeddings(self.width)


@dataclass(frozen=True)
class SelectionShards(Shards):
    """The rows that training and evaluation read (`schema.SELECTION`)."""

    training_rows: int
    held_out_rows: int

    def schema(self) -> pa.Schema:
        """The schema that every shard has."""
        return SELECTION


@dataclass(frozen=True)
class PcaBasisFile(Artifact):
    """`basis.parquet` (`schema.pca_basis(width)`)."""

    width: int
    explained: float  # share of the variance that `dimensions` components keep
    dimensions: int


@dataclass(frozen=True)
class TrainedModel(Artifact):
    """`model.safetensors`: the averaged weights, with their config inside."""

    parameters: int
    steps: int
    final_loss: float | None  # None if no step was taken
    model: str = ""  # the tag of its config


@dataclass(frozen=True)
class Evaluation(Artifact):
    """`metrics.json` (name → value, baseline, better direction, meaning) and the sample shards."""

    metrics: dict[str, float]


@dataclass(frozen=True)
class Report(Artifact):
    """`report.html`: one file with its images inside."""

    title: str
