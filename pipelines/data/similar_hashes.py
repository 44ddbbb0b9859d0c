"""Pairs of perceptual hashes that differ in a few bits, without comparing all with all.

H hashes of 64 bits, distance d (bits). The bits are cut into d + 2 blocks. Two hashes that differ
in at most d bits agree in at least two blocks, so they meet when the hashes are sorted by each
choice of two blocks (Manku et al. 2007, "Detecting near-duplicates for web crawling"). For d = 3
these are 10 sorts by 25 or 26 bits: buckets stay small up to 100 million hashes, where four bands
of 16 bits would compare 45 rows per hash at 3 million, and ever more beyond.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MAX_DISTANCE = 3  # bits; each further bit needs more sorts, and finds more that is not alike
WINDOW = 256  # hashes of a bucket that each one is compared with
BATCH_ROWS = 65_536
PAIRS_OF_HASHES = pa.schema([("first", pa.uint64()), ("second", pa.uint64())])


def block_masks(distance: int) -> list[int]:
    """The bits of each choice of two out of distance + 2 blocks."""
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(
            f"max_distance={distance} is not in 0..{MAX_DISTANCE} bits; give 3 or less"
        )
    ends = [64 * block // (distance + 2) for block in range(distance + 3)]
    blocks = [(1 << end) - (1 << start) for start, end in pairwise(ends)]
    return [one | other for one, other in combinations(blocks, 2)]


def write_similar_hashes(database: duckdb.DuckDBPyConnection, distance: int, target: Path) -> None:
    """Write pairs of the table `hashes` (phash, distinct) that differ in at most `distance` bits.

    A pair may occur several times. A hash is compared with at most the 256 that precede it in a
    bucket, in ascending order: so drawings on white, whose hashes fill one bucket, cost 256
    comparisons each and not as many as there are. In such a bucket, pairs further apart are
    missed, unless another choice of blocks brings them together.
    """
    with pq.ParquetWriter(target, PAIRS_OF_HASHES) as writer:
        for mask in block_masks(distance):
            for first, second in _similar_in_buckets(_sorted_by(database, mask), mask, distance):
                writer.write_batch(pa.record_batch([first, second], schema=PAIRS_OF_HASHES))


def _sorted_by(database: duckdb.DuckDBPyConnection, mask: int) -> Iterator[np.ndarray]:
    """The hashes whose masked bits occur more than once, sorted by these: arrays of uint64."""
    bucket = f"phash & {mask}::UBIGINT"
    rows = database.sql(
        f"SELECT phash FROM hashes WHERE {bucket} IN (SELECT {bucket} FROM hashes GROUP BY ALL "
        f"HAVING count(*) > 1) ORDER BY {bucket}, phash"
    )
    for batch in rows.to_arrow_reader(BATCH_ROWS):
        yield batch.column(0).to_numpy()


def _similar_in_buckets(
    parts: Iterator[np.ndarray], mask: int, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of similar hashes of one bucket, as two arrays of equal length."""
    before = np.empty(0, np.uint64)
    for part in parts:
        hashes = np.concatenate([before, part])
        buckets = hashes & np.uint64(mask)
        later = np.arange(len(before), len(hashes))
        for shift in range(1, WINDOW + 1):
            later = later[later >= shift]
            later = later[buckets[later] == buckets[later - shift]]
            if not len(later):
                break
            one, other = hashes[later - shift], hashes[later]
            similar = np.bitwise_count(one ^ other) <= distance
            yield one[similar], other[similar]
        before = hashes[-WINDOW:]
