"""Which rows training and evaluation read: the similarity floor, and near duplicates."""

# N rows, M rows of a bucket, P pivots, W width of the embeddings

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.artifacts import EmbeddingShards
from pipelines.artifacts.schema import SELECTION, is_held_out
from pipelines.core.stage import Metadata
from pipelines.core.tables import to_numpy

log = logging.getLogger(__name__)

BUCKET_ROWS = 4096  # on average; near duplicates are searched within a bucket


@dataclass(frozen=True)
class SelectWorker:
    """Callable on (keys, similarities, near duplicates) of one shard."""

    min_similarity: float
    held_out_fraction: float

    def __call__(self, item: tuple[list[str], np.ndarray, np.ndarray]) -> tuple[pa.Table, Metadata]:
        """Returns the selected rows (`SELECTION`), and the others counted by reason."""
        keys, similarity, is_repeat = item
        dissimilar = similarity < self.min_similarity  # (N,)
        rows = np.flatnonzero(~dissimilar & ~is_repeat)
        chosen = [keys[row] for row in rows]
        held_out = [is_held_out(key, self.held_out_fraction) for key in chosen]
        rejected = {
            "similarity": int(dissimilar.sum()),
            "near_duplicate": int((is_repeat & ~dissimilar).sum()),
        }
        table = pa.table({"key": chosen, "row": rows, "held_out": held_out}, schema=SELECTION)
        return table, {"rejected": rejected, "held_out": sum(held_out)}


def find_repeats(shards: EmbeddingShards, threshold: float | None) -> dict[str, np.ndarray]:
    """A mask of near duplicates for each shard, found over all shards: name → (N,) bool."""
    if threshold is None:
        return {name: np.zeros(rows, dtype=bool) for name, rows in shards.rows.items()}
    vectors = [
        to_numpy(shards.read(name, ["image_embeds"])["image_embeds"]) for name in shards.rows
    ]
    repeats = near_duplicates(np.concatenate(vectors), threshold)
    log.info("%d of %d images are near duplicates", repeats.sum(), len(repeats))
    ends = np.cumsum([len(v) for v in vectors])[:-1]
    return dict(zip(shards.rows, np.split(repeats, ends), strict=True))


def near_duplicates(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Rows whose cosine with an earlier row that stays is at least `threshold`. (N, W) → (N,) bool.

    Each row belongs to the bucket of the nearest of N / 4096 pivots, and rows are compared only
    within a bucket. Near duplicates in different buckets are missed.
    """
    repeats = np.zeros(len(vectors), dtype=bool)
    for bucket in _buckets(vectors):
        similar = vectors[bucket] @ vectors[bucket].T >= threshold  # (M, M)
        later, earlier = np.nonzero(np.tril(similar, k=-1))  # sorted by the later row
        for row, other in zip(later, earlier, strict=True):
            if not repeats[bucket[other]]:
                repeats[bucket[row]] = True
    return repeats


def _buckets(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """For each pivot, the indices of the rows nearest to it, in ascending order."""
    pivots = vectors[:: max(1, min(BUCKET_ROWS, len(vectors)))]  # (P, W)
    chunks = np.array_split(vectors, max(1, len(vectors) // BUCKET_ROWS))
    nearest = np.concatenate([(chunk @ pivots.T).argmax(axis=1) for chunk in chunks])
    for pivot in range(len(pivots)):
        yield np.flatnonzero(nearest == pivot)
