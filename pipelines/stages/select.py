"""Choose the rows that training and evaluation read, and split them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipelines.artifacts import EmbeddingShards, SelectionShards
from pipelines.artifacts.schema import SELECTION, is_held_out
from pipelines.core.errors import PipelineError
from pipelines.core.stage import Artifact, Context, Metadata, Stage
from pipelines.stages.embed import to_array
from unclip.config import Config, ConfigError

BUCKET_ROWS = 4096  # that are compared with each other in the search for near duplicates


@dataclass(frozen=True, kw_only=True)
class SelectConfig(Config):
    """What is good enough to learn from, and how much of it is held out."""

    tag: ClassVar[str] = "select"

    min_similarity: float  # cosine of image and caption; -1 keeps all
    near_duplicate_similarity: float | None  # cosine of two images from which one goes; None: off
    held_out_fraction: float  # of the rows, by their keys; no training sees them

    def __post_init__(self) -> None:
        if not -1 <= self.min_similarity < 1:
            raise ConfigError(
                f"min_similarity={self.min_similarity} is not in [-1, 1), as a cosine must be; "
                "LAION used 0.28 with ViT-B/32"
            )
        near = self.near_duplicate_similarity
        if near is not None and not 0 < near <= 1:
            raise ConfigError(
                f"near_duplicate_similarity={near} is not in (0, 1]; give about 0.97, or null"
            )
        if not 0 < self.held_out_fraction < 1:
            raise ConfigError(
                f"held_out_fraction={self.held_out_fraction} leaves nothing to train or to "
                "evaluate on; give about 0.01, or 0.1 for a small set"
            )


@dataclass(frozen=True)
class SelectWorker:
    """Callable on (keys, similarities, near duplicates) of one shard."""

    config: SelectConfig

    def __call__(self, item: tuple[list[str], np.ndarray, np.ndarray]) -> tuple[pa.Table, Metadata]:
        """Returns the chosen rows, and the others counted by reason."""
        keys, similarity, is_repeat = item
        dissimilar = similarity < self.config.min_similarity  # (N,)
        rows = np.flatnonzero(~dissimilar & ~is_repeat)
        chosen = [keys[row] for row in rows]
        held_out = [is_held_out(key, self.config.held_out_fraction) for key in chosen]
        rejected = {
            "similarity": int(dissimilar.sum()),
            "near_duplicate": int((is_repeat & ~dissimilar).sum()),
        }
        table = pa.table({"key": chosen, "row": rows, "held_out": held_out}, schema=SELECTION)
        return table, {"rejected": rejected, "held_out": sum(held_out)}


def near_duplicates(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Rows whose cosine with an earlier row that stays is at least `threshold`. (N, W) → (N,) bool.

    Rows are compared with those nearest to the same one of N / 4096 pivots, so that time grows with
    N and not its square; duplicates on two sides of a border between pivots are missed.
    """
    repeats = np.zeros(len(vectors), dtype=bool)
    for bucket in buckets(vectors):
        similar = vectors[bucket] @ vectors[bucket].T >= threshold  # (M, M)
        later, earlier = np.nonzero(np.tril(similar, k=-1))  # sorted by the later row
        for row, other in zip(later, earlier, strict=True):
            if not repeats[bucket[other]]:
                repeats[bucket[row]] = True
    return repeats


def buckets(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of the rows nearest to each pivot, in rising order."""
    pivots = vectors[:: max(1, min(BUCKET_ROWS, len(vectors)))]  # (P, W)
    chunks = np.array_split(vectors, max(1, len(vectors) // BUCKET_ROWS))
    nearest = np.concatenate([(chunk @ pivots.T).argmax(axis=1) for chunk in chunks])
    for pivot in range(len(pivots)):
        yield np.flatnonzero(nearest == pivot)


def find_repeats(shards: EmbeddingShards, threshold: float | None) -> dict[str, np.ndarray]:
    """Near duplicates of each shard, over all of them: (N,) bool by name."""
    if threshold is None:
        return {name: np.zeros(rows, dtype=bool) for name, rows in shards.rows.items()}
    vectors = [
        to_array(shards.read(name, ["image_embeds"])["image_embeds"]) for name in shards.rows
    ]
    repeats = near_duplicates(np.concatenate(vectors), threshold)
    ends = np.cumsum([len(v) for v in vectors])[:-1]
    return dict(zip(shards.rows, np.split(repeats, ends), strict=True))


@dataclass(frozen=True)
class Select(Stage[SelectionShards]):
    """Rows above the similarity floor, near duplicates left out, split by their keys alone."""

    kind: ClassVar[str] = "select"
    artifact: ClassVar[type[Artifact]] = SelectionShards

    embeddings: Stage[EmbeddingShards]
    config: SelectConfig

    def run(self, ctx: Context) -> SelectionShards:
        """Raise `PipelineError` where one of the two splits is empty."""
        shards = ctx.load(self.embeddings)
        repeats = ctx.call(find_repeats, shards, self.config.near_duplicate_similarity)
        items = {}
        for name in shards.rows:
            table = shards.read(name, ["key", "similarity"])
            items[name] = (table["key"].to_pylist(), table["similarity"].to_numpy(), repeats[name])
        metadata = ctx.map_shards(SelectWorker(self.config), items, schema=SELECTION, unit="shards")
        return self.summarise(ctx, metadata)

    def summarise(self, ctx: Context, metadata: dict[str, Metadata]) -> SelectionShards:
        """The artifact, with the counts over all shards."""
        rejected: Counter[str] = Counter()
        for shard in metadata.values():
            rejected.update(shard["rejected"])
        rows = {name: f["rows"] for name, f in metadata.items()}
        held_out = sum(f["held_out"] for f in metadata.values())
        training = sum(rows.values()) - held_out
        if not held_out or not training:
            raise PipelineError(
                f"The selection leaves {training} rows to train and {held_out} to evaluate on "
                f"(rejected: {dict(rejected)}). Lower select.min_similarity, change "
                "select.held_out_fraction, or bring more pairs."
            )
        counts = {"rejected": dict(rejected)}
        return SelectionShards(
            ctx.folder, rows, counts, training_rows=training, held_out_rows=held_out
        )
