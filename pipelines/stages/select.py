"""Choose the rows that training and evaluation read, and split them."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import EmbeddingShards, SelectionShards
from pipelines.artifacts.schema import SELECTION
from pipelines.core.errors import PipelineError
from pipelines.core.stage import Artifact, Context, Metadata, Stage
from pipelines.embeddings.selection import SelectWorker, find_repeats
from unclip.config import Config, ConfigError


@dataclass(frozen=True, kw_only=True)
class SelectConfig(Config):
    """Which pairs are good enough to train on, and how many of them are held out."""

    tag: ClassVar[str] = "select"

    min_similarity: float  # cosine of image and caption; -1 keeps all
    near_duplicate_similarity: float | None  # minimum cosine of two near duplicates; null: off
    held_out_fraction: float  # of the rows, chosen by key; never used for training

    def __post_init__(self) -> None:
        if not -1 <= self.min_similarity < 1:
            raise ConfigError(
                f"min_similarity={self.min_similarity} is not in [-1, 1); it is a cosine; "
                "LAION used 0.28 with ViT-B/32"
            )
        near = self.near_duplicate_similarity
        if near is not None and not 0 < near <= 1:
            raise ConfigError(
                f"near_duplicate_similarity={near} is not in (0, 1]; give about 0.97, or null"
            )
        if not 0 < self.held_out_fraction < 1:
            raise ConfigError(
                f"held_out_fraction={self.held_out_fraction} leaves nothing to train on or nothing "
                "to evaluate on; give about 0.01, or 0.1 for a small set"
            )


@dataclass(frozen=True)
class Select(Stage[SelectionShards]):
    """Rows above the similarity floor, without near duplicates, split by key."""

    kind: ClassVar[str] = "select"
    artifact: ClassVar[type[Artifact]] = SelectionShards

    embeddings: Stage[EmbeddingShards]
    config: SelectConfig

    def run(self, ctx: Context) -> SelectionShards:
        """Select and split all rows. Raises `PipelineError` if one of the splits is empty."""
        shards = ctx.load(self.embeddings)
        repeats = ctx.call(find_repeats, shards, self.config.near_duplicate_similarity)
        items = {}
        for name in shards.rows:
            table = shards.read(name, ["key", "similarity"])
            items[name] = (table["key"].to_pylist(), table["similarity"].to_numpy(), repeats[name])
        worker = SelectWorker(self.config.min_similarity, self.config.held_out_fraction)
        return self._summarise(ctx, ctx.map_shards(worker, items, schema=SELECTION, unit="shards"))

    def _summarise(self, ctx: Context, metadata: dict[str, Metadata]) -> SelectionShards:
        rejected: Counter[str] = Counter()
        for shard in metadata.values():
            rejected.update(shard["rejected"])
        rows = {name: shard["rows"] for name, shard in metadata.items()}
        held_out = sum(shard["held_out"] for shard in metadata.values())
        training = sum(rows.values()) - held_out
        if not held_out or not training:
            raise PipelineError(
                f"The selection leaves {training} rows to train on and {held_out} to evaluate on "
                f"(rejected: {dict(rejected)}). Lower select.min_similarity, change "
                "select.held_out_fraction, or provide more pairs."
            )
        return SelectionShards(
            ctx.folder,
            rows,
            {"rejected": dict(rejected)},
            training_rows=training,
            held_out_rows=held_out,
        )
