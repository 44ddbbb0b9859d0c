"""Rows of a pairs shard, read a row group at a time."""

# N rows of a shard

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts.schema import PAIRS
from pipelines.core.filesystem import filesystem, reading
from pipelines.core.tables import check_schema

COLUMNS = ["key", "caption", "image"]
ROWS_AT_ONCE = 256  # decompressed together: images of a row group stay compressed until then


@dataclass(frozen=True)
class PairRows:
    """The rows of one pairs shard that are embedded."""

    url: str
    keep: np.ndarray | None = None  # ascending positions in the shard; None: all N


def rows(pairs: PairRows) -> Iterator[pa.RecordBatch]:
    """The kept rows in their order, with `COLUMNS`. Row groups without any are not read.

    Raises `SchemaError` unless the file has the schema of pairs, and `StoreError` if it cannot be
    read.
    """
    fs = filesystem(pairs.url)
    with reading(pairs.url), fs.open(fs._strip_protocol(pairs.url), "rb") as source:
        file = pq.ParquetFile(source)
        check_schema(file.schema_arrow, PAIRS, where=pairs.url)
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if _kept(pairs.keep, first, count).size:
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=COLUMNS):
                    yield batch.take(pa.array(_kept(pairs.keep, first, batch.num_rows)))
                    first += batch.num_rows
            else:
                first += count


def _kept(keep: np.ndarray | None, first: int, count: int) -> np.ndarray:
    """Positions of the kept rows among `count` rows from `first` on, counted from `first`."""
    if keep is None:
        return np.arange(count)
    low, high = np.searchsorted(keep, [first, first + count])
    return keep[low:high] - first


def batched(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size` rows, the last one of fewer."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(b.num_rows for b in waiting) >= size:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, size)
            waiting = table.slice(size).to_batches()
    if any(b.num_rows for b in waiting):
        yield pa.Table.from_batches(waiting)
