"""The rows of a shard of pairs that the filter kept, read a row group at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.artifacts.schema import VERDICTS
from pipelines.core.tables import opened, read_table
from pipelines.data.shard_reader import image_column

ROWS_AT_ONCE = 256  # decompressed together: images of a row group stay compressed until then


@dataclass(frozen=True)
class PairRows:
    """One shard of pairs, and the filter's verdicts on them."""

    url: str
    verdicts: str | None = None  # URL; None: all rows are kept

    def kept(self) -> np.ndarray | None:
        """Ascending positions in the shard; None: all."""
        if self.verdicts is None:
            return None
        reasons = read_table(self.verdicts, ["reason"], VERDICTS)["reason"]
        return np.flatnonzero(reasons.is_null().to_numpy())


def rows(pairs: PairRows, image_size: int) -> Iterator[pa.RecordBatch]:
    """The kept rows in their order: key, row, caption, image. Row groups without any are not read.

    image_size: of the model; the smallest stored image of at least that size is read. Raises
    `StoreError` if the file cannot be read.
    """
    keep, image = pairs.kept(), image_column(pairs.url, image_size)
    with opened(pairs.url) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if _kept(keep, first, count).size:
                columns = ["key", "caption", image]
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
                    yield _taken(batch, image, _kept(keep, first, batch.num_rows), first)
                    first += batch.num_rows
            else:
                first += count


def _taken(batch: pa.RecordBatch, image: str, kept: np.ndarray, first: int) -> pa.RecordBatch:
    taken = batch.take(pa.array(kept))
    columns = {
        "key": taken["key"],
        "row": pa.array(kept + first, pa.int32()),
        "caption": taken["caption"],
        "image": taken[image],
    }
    return pa.record_batch(columns)


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
