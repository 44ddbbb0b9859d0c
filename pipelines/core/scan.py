"""Small columns of many shards as one stream."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa

from pipelines.core.filesystem import StoreError
from pipelines.core.tables import read_table

log = logging.getLogger(__name__)

T = TypeVar("T")

READERS = 16  # shards that are read at the same time


def scan(
    urls: Mapping[str, str], schema: pa.Schema, *, skip_damaged: bool = False
) -> pa.RecordBatchReader:
    """The columns of a schema from many Parquet files, in their order, read ahead by threads.

    urls: by the name of each shard. Two columns come first: `shard`, and `number`, the row's
    position in it. A file that cannot be read is left out with a warning if `skip_damaged`, and
    else raises `StoreError`.
    """

    def read(name: str) -> pa.Table:
        try:
            return read_table(urls[name], schema.names)
        except StoreError as error:
            if not skip_damaged:
                raise
            log.warning("going on without a file: %s", error)
            return schema.empty_table()

    whole = pa.schema([pa.field("shard", pa.string()), pa.field("number", pa.int32()), *schema])
    return pa.RecordBatchReader.from_batches(whole, _batches(read_ahead(urls, read), whole))


def _batches(tables: Iterable[tuple[str, pa.Table]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for name, table in tables:
        yield from _named(name, table, schema)


def read_ahead(names: Iterable[str], read: Callable[[str], T]) -> Iterator[tuple[str, T]]:
    """Each name with what `read` returns for it, in their order; threads read some ahead."""
    pending: deque[tuple[str, Future[T]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for name in names:
            pending.append((name, pool.submit(read, name)))
            if len(pending) >= 2 * READERS:
                first, future = pending.popleft()
                yield first, future.result()
        for name, future in pending:
            yield name, future.result()


def _named(name: str, table: pa.Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    numbers = pa.array(np.arange(table.num_rows, dtype=np.int32))
    names = pa.array([name] * table.num_rows, pa.string())
    numbered = table.add_column(0, "number", numbers).add_column(0, "shard", names)
    yield from numbered.cast(schema).to_batches()
