"""Choose the rows that training and evaluation read, and split them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import EmbeddingShards, PairShards, SelectionShards
from pipelines.artifacts.schema import SELECTION
from pipelines.core.errors import PipelineError
from pipelines.core.shard_records import ShardRecord
from pipelines.core.stage import Artifact, Context, Stage, entries
from pipelines.data.repeats import Repeats
from pipelines.embeddings.search import find_near_duplicates
from pipelines.embeddings.selection import SelectItem, SelectWorker
from pipelines.stages.counts import check_books, total_counts
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
    """Which embedded pairs are above the similarity floor and no near duplicates, and the split."""

    kind: ClassVar[str] = "select"
    version: ClassVar[int] = 3  # 2: verdicts, other splits; 3: captions of one image all stay
    artifact: ClassVar[type[Artifact]] = SelectionShards

    pairs: Stage[PairShards]
    embeddings: Stage[EmbeddingShards]
    config: SelectConfig

    def run(self, ctx: Context) -> SelectionShards:
        """Judge and split all rows. Raises `PipelineError` if one of the splits is empty."""
        pairs, embeddings = ctx.load(self.pairs), ctx.load(self.embeddings)
        repeats = Repeats.none()
        if self.config.near_duplicate_similarity is not None:
            repeats = find_near_duplicates(
                ctx, pairs, embeddings, self.config.near_duplicate_similarity
            )
        items = {
            name: SelectItem(index, embeddings.url(name), pairs.url(name), repeats.url)
            for index, name in enumerate(sorted(embeddings.shards))
        }
        records = ctx.map_shards(
            SelectWorker(self.config.min_similarity, self.config.held_out_fraction),
            items,
            schema=SELECTION,
            unit="shards",
            made_from={
                name: [entry.digest, pairs.shards[name].digest, repeats.digests.get(name)]
                for name, entry in embeddings.shards.items()
            },
        )
        return self._summarise(ctx, records)

    def _summarise(self, ctx: Context, records: Mapping[str, ShardRecord]) -> SelectionShards:
        counts = total_counts(record.metadata for record in records.values())
        training, held_out = counts["training"], counts["held_out"]
        check_books(self.name, counts["read"], training + held_out, counts["rejected"])
        if not held_out or not training:
            raise PipelineError(
                f"The selection leaves {training} rows to train on and {held_out} to evaluate on "
                f"(rejected: {counts['rejected']}). Lower select.min_similarity, change "
                "select.held_out_fraction, or provide more pairs."
            )
        return SelectionShards(
            ctx.folder,
            entries(records),
            counts,
            training={name: r.metadata["training"] for name, r in records.items()},
            held_out={name: r.metadata["held_out"] for name, r in records.items()},
        )
