"""Synthetic pairs and embeddings with planted duplicates, shard by shard."""

# M rows of a shard, W width, T topics

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipelines.data.duplicates import IDENTITY

SHARD_ROWS = 10_000
TOPICS = 1000
COPIES = 0.1  # of the rows
LOWEST_COSINE, HIGHEST_COSINE = 0.93, 0.999  # of a planted copy with its original


def key_of(number: int) -> str:
    """20 hex digits, like the keys of pairs."""
    return hashlib.sha256(b"%d" % number).hexdigest()[:20]


def identities(rows: int) -> Iterator[pa.RecordBatch]:
    """Shards of `IDENTITY`: 4% repeat a content, 4% are near copies of an earlier picture."""
    for shard, start in enumerate(range(0, rows, SHARD_ROWS)):
        count = min(SHARD_ROWS, rows - start)
        rng = np.random.default_rng((0, shard))
        number = np.arange(start, start + count)
        draw = rng.random(count)
        source = np.where(draw < 0.08, (number * rng.random(count)).astype(np.int64), number)
        is_near_copy = (draw >= 0.04) & (draw < 0.08)
        digests = [hashlib.sha256(n.tobytes()).hexdigest() for n in source]
        hashes = np.array([int(d[:16], 16) for d in digests], np.uint64)
        hashes ^= np.where(is_near_copy, 1 << rng.integers(0, 63, count), 0).astype(np.uint64)
        seeds = np.where(is_near_copy, number + rows, source)  # near copies have bytes of their own
        yield pa.record_batch(
            {
                "shard": pa.array(np.full(count, shard), pa.int32()),
                "row": pa.array(np.arange(count), pa.int32()),
                "key": [key_of(int(n)) for n in number],
                "sha256": [hashlib.sha256(n.tobytes()).hexdigest() for n in seeds],
                "caption": [
                    f"a photograph of a place, seen from above, number {n}" for n in source
                ],
                "pixels": pa.array(rng.integers(10_000, 10_000_000, count), pa.int64()),
                "phash": pa.array(hashes, pa.uint64()),
            }
        ).cast(IDENTITY)


def embeddings(rows: int, width: int) -> Iterator[np.ndarray]:
    """Shards of clustered unit vectors, (M, W) float32, with copies of vectors of the same shard.

    Topics are of unequal size, and share a common direction, as the embeddings of a CLIP do. Within
    a topic, variance falls from dimension to dimension, and so does that of the copies' noise.
    """
    rng = np.random.default_rng(0)
    topics = unit(rng.standard_normal((TOPICS, width)))
    sizes = rng.dirichlet(np.full(TOPICS, 0.5))
    scale = 1 / np.sqrt(1 + np.arange(width) / 20)
    for start in range(0, rows, SHARD_ROWS):
        count = min(SHARD_ROWS, rows - start)
        rng = np.random.default_rng((1, start))
        own = unit(rng.standard_normal((count, width)) * scale)
        vectors = unit(
            0.4 * topics[rng.choice(TOPICS, count, p=sizes)] + 0.75 * own + 0.5 * topics[0]
        )
        copies = int(count * COPIES)
        source = vectors[rng.integers(copies, count, copies)]
        cosine = rng.uniform(LOWEST_COSINE, HIGHEST_COSINE, (copies, 1))
        noise = rng.standard_normal((copies, width)) * scale
        noise = unit(noise - (noise * source).sum(axis=1, keepdims=True) * source)
        vectors[:copies] = cosine * source + np.sqrt(1 - cosine**2) * noise
        yield rng.permutation(vectors).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to norm 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
