"""Exact duplicates among all shards, from three short columns of each. N rows, R repeats."""

import hashlib
import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

log = logging.getLogger(__name__)

IDENTITY_COLUMNS = ("key", "sha256", "caption")  # that `exact_duplicates` reads


def digests(table: pa.Table, columns: tuple[str, ...]) -> np.ndarray:
    """A 16-byte digest of each row's columns. Returns (N,) of dtype S16."""
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    joined = (hashlib.blake2b("\0".join(row).encode(), digest_size=16).digest() for row in rows)
    return np.frombuffer(b"".join(joined), dtype="S16")


def is_repeated(values: np.ndarray) -> np.ndarray:
    """Whether an element occurs more than once. (N,) → (N,) bool."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse] > 1)


def find_repeats(keys: np.ndarray, contents: np.ndarray) -> np.ndarray:
    """Rows with the key or the content of an earlier row that is kept. (N,), (N,) → (R,) int64."""
    seen_keys: set[bytes] = set()
    seen_contents: set[bytes] = set()
    repeats = []
    # Only rows that share a digest can repeat another, so the loop and its sets stay small.
    for row in np.flatnonzero(is_repeated(keys) | is_repeated(contents)):
        if keys[row] in seen_keys or contents[row] in seen_contents:
            repeats.append(row)
        else:
            seen_keys.add(keys[row])
            seen_contents.add(contents[row])
    return np.asarray(repeats, dtype=np.int64)


def exact_duplicates(shards: Mapping[str, pa.Table]) -> dict[str, frozenset[int]]:
    """The rows of each shard that repeat an earlier pair, from the IDENTITY_COLUMNS.

    Shards are ordered by name. A pair is a repeat if an earlier pair that is not a repeat has the
    same key, or the same caption and the same downloaded bytes.
    """
    names = sorted(shards)
    none = np.empty(0, dtype="S16")
    keys = [digests(shards[name], ("key",)) for name in names]
    contents = [digests(shards[name], ("sha256", "caption")) for name in names]
    repeats = find_repeats(np.concatenate([none, *keys]), np.concatenate([none, *contents]))
    log.info("%d pairs in %d shards repeat an earlier one", len(repeats), len(names))
    starts = np.cumsum([0, *(shards[name].num_rows for name in names)])
    return {
        name: frozenset((repeats[(repeats >= start) & (repeats < end)] - start).tolist())
        for name, start, end in zip(names, starts[:-1], starts[1:], strict=True)
    }
