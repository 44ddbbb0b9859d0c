"""Parquet tables whose schema is checked, on write and on read; columns as numpy arrays."""

# N rows, D components

from collections.abc import Sequence
from typing import Literal

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
    columns are read. Raises `StoreError` if the file cannot be read.
    """
    fs = filesystem(url)
    with reading(url), fs.open(fs._strip_protocol(url), "rb") as source:
        file = pq.ParquetFile(source)
        if schema is not None:
            check_schema(file.schema_arrow, schema, where=url)
        return file.read(columns=None if columns is None else list(columns))


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
