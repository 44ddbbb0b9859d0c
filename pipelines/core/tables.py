"""Parquet tables whose schema is checked, on write and on read; columns as numpy arrays."""

# N rows, D components

import contextlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.errors import PipelineError
from pipelines.core.filesystem import filesystem, reading

Precision = Literal["float32", "float16"]  # of stored vectors; in memory they are float32


class SchemaError(PipelineError):
    """A table or file does not have the expected columns."""


def read_table(
    url: str, columns: Sequence[str] | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """The columns of the Parquet file at a URL, in memory; all of them if `columns` is None.

    With `schema`, raises `SchemaError` unless the whole file has exactly that schema, whichever
    columns are read. Raises `StoreError` if the file cannot be read or is damaged.
    """
    with opened(url, schema) as file:
        return file.read(columns=None if columns is None else list(columns))


def read_batches(
    url: str, columns: Sequence[str] | None = None, schema: pa.Schema | None = None
) -> Iterator[pa.Table]:
    """Like `read_table`, one row group after the other."""
    with opened(url, schema) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=None if columns is None else list(columns))


def read_where(url: str, column: str, value: str | int) -> pa.Table:
    """The rows with a value; row groups whose statistics exclude it are not read."""
    fs = filesystem(url)
    with reading(url):
        return pq.read_table(fs._strip_protocol(url), filesystem=fs, filters=[(column, "=", value)])


@contextlib.contextmanager
def opened(url: str, schema: pa.Schema | None = None) -> Iterator[pq.ParquetFile]:
    """A Parquet file whose pages are checked as they are read."""
    fs = filesystem(url)
    with reading(url), fs.open(fs._strip_protocol(url), "rb") as source:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        if schema is not None:
            check_schema(file.schema_arrow, schema, where=url)
        yield file


class ParquetRows:
    """Reads single rows of one Parquet file, with one row group in memory.

    Only the columns of row groups that have such rows are read, also from an object store.
    """

    def __init__(self, url: str, columns: Sequence[str] | None = None) -> None:
        """Raises `SchemaError` if the file lacks a column."""
        fs = filesystem(url)
        with reading(url):
            source = fs.open(fs._strip_protocol(url), "rb", cache_type="none")
            self.file = pq.ParquetFile(source, page_checksum_verification=True)
        self.url, names = url, self.file.schema_arrow.names
        self.columns = list(columns or names)
        missing = [name for name in self.columns if name not in names]
        if missing:
            raise SchemaError(f"{url} has no column {missing[0]}; it has {', '.join(names)}.")
        metadata = self.file.metadata
        self.starts = np.cumsum(
            [0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))]
        )
        self.group = lru_cache(maxsize=1)(self._group)

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return int(self.starts[-1])

    def row_bytes(self, columns: Sequence[str]) -> float:
        """The mean size of some columns of a row, uncompressed, from the file's metadata."""
        metadata, size = self.file.metadata, 0
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            chunks = map(group.column, range(group.num_columns))
            size += sum(
                chunk.total_uncompressed_size
                for chunk in chunks
                if chunk.path_in_schema.partition(".")[0] in columns
            )
        return size / max(1, self.num_rows)

    def row(self, row: int) -> dict[str, Any]:
        """One row, by its position in the file."""
        found: dict[str, Any] = self.take([row]).to_pylist()[0]
        return found

    def take(
        self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Rows by their ascending positions; only some of the columns if they are given."""
        names = tuple(self.columns if columns is None else columns)
        wanted = np.asarray(rows, dtype=np.int64)
        groups = np.searchsorted(self.starts, wanted, side="right") - 1
        tables = [self.file.schema_arrow.empty_table().select(names)]
        for group in np.unique(groups):
            inside = wanted[groups == group] - self.starts[group]
            tables.append(self.group(int(group), names).take(inside))
        return pa.concat_tables(tables)

    def _group(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        with reading(self.url):
            return self.file.read_row_group(group, columns=list(columns)).select(columns)


def check_schema(table: pa.Table | pa.Schema, expected: pa.Schema, *, where: str) -> None:
    """Raise `SchemaError` naming the columns that differ; Parquet metadata is not compared."""
    schema = table if isinstance(table, pa.Schema) else table.schema
    if schema.equals(expected, check_metadata=False):
        return
    given = {f.name: _readable(f) for f in schema}
    wanted = {f.name: _readable(f) for f in expected}
    missing = [f"{n}: {t}" for n, t in wanted.items() if n not in given]
    extra = [f"{n}: {t}" for n, t in given.items() if n not in wanted]
    other = [f"{n}: {given[n]} instead of {t}" for n, t in wanted.items() if given.get(n, t) != t]
    raise SchemaError(
        f"{where} does not have the expected columns (missing: {', '.join(missing) or 'none'}; "
        f"unexpected: {', '.join(extra) or 'none'}; other type: {', '.join(other) or 'none'}). "
        "It was written by another version of the code: rerun its stage with --force."
    )


def _readable(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


def to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size lists as (N, D) float32, or one of numbers as (N,) float32.

    Lists may be stored as float32 or float16.
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_fixed_size_list(whole.type):
        return np.asarray(whole, dtype=np.float32)
    return np.asarray(whole.flatten(), dtype=np.float32).reshape(len(whole), whole.type.list_size)


def to_column(vectors: np.ndarray, precision: Precision = "float32") -> pa.FixedSizeListArray:
    """(N, D) numbers as a column of fixed-size lists of D numbers of the precision."""
    flat = np.ascontiguousarray(vectors, precision).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])
