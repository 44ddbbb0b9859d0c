"""The file formats of URL lists. `FORMATS` is the one table of them.

Every format reads a file as a stream of small record batches, so that memory does not grow with the
file.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.list_columns import LINE, MAX_BYTES, check_columns
from pipelines.data.list_errors import ListContentError, shown
from pipelines.data.list_lines import Lines
from pipelines.data.list_rows import ListOptions, Row, csv_rows, json_rows

MAX_REASON = 300  # characters of a parser's message
READ_BYTES = 4 * 2**20  # at once of each column of Parquet


class ListFormat(ABC):
    """Reads one format from an open, decompressed file."""

    name: str
    suffixes: tuple[str, ...]

    @abstractmethod
    def batches(self, source: IO[bytes], options: ListOptions) -> Iterator[pa.RecordBatch]:
        """The columns `options.names` of all rows, with the types of the file.

        Raises `ListContentError`.
        """

    def unreadable(self, error: Exception, place: str) -> ListContentError:
        """What to raise for a file that its parser or its decompression refuses."""
        said = "".join(char if char.isprintable() else " " for char in str(error))
        reason = " ".join(said.split())[:MAX_REASON].rstrip(".") or type(error).__name__
        return ListContentError(
            f"is not readable as {self.name} {place}: {reason}",
            "Check that the file is complete, or rename it with the suffix of its format.",
        )


class Text(ListFormat):
    """A format of lines of text."""

    def __init__(self, name: str, *suffixes: str, rows: Callable[..., Iterator[Row]]) -> None:
        """rows: one of the parsers in `list_rows`."""
        self.name, self.suffixes, self.rows = name, suffixes, rows

    def batches(self, source: IO[bytes], options: ListOptions) -> Iterator[pa.RecordBatch]:
        """Strings or lists of strings, and the column `LINE`."""
        lines = Lines(source, options.encoding)
        try:
            yield from _batches(self.rows(lines, options), lines, options)
        except ListContentError:
            raise
        except Exception as error:
            raise self.unreadable(error, f"after line {lines.number:,}") from error


def _batches(rows: Iterator[Row], lines: Lines, options: ListOptions) -> Iterator[pa.RecordBatch]:
    """The rows in batches, each of about `MAX_BYTES` bytes of the file at most."""
    found: list[Row] = []
    sent = 0  # characters of the file
    for row in rows:
        found.append(row)
        if len(found) == options.batch_rows or lines.chars - sent >= lines.max_row_chars:
            yield _batch(found, options.names)
            found, sent = [], lines.chars
    if found:
        yield _batch(found, options.names)


def _batch(rows: Sequence[Row], names: Sequence[str]) -> pa.RecordBatch:
    lines = [line for line, _ in rows]
    columns = zip(*(values for _, values in rows), strict=True)
    arrays = [_array(c, name, lines) for c, name in zip(columns, names, strict=True)]
    return pa.RecordBatch.from_arrays([*arrays, pa.array(lines)], names=[*names, LINE])


def _array(values: Sequence[Any], name: str, lines: Sequence[int]) -> pa.Array:
    kind = pa.string()
    if any(isinstance(value, list) for value in values):
        kind = pa.list_(pa.string())
        values = [v if v is None or isinstance(v, list) else [v] for v in values]
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        row = next(row for row, value in enumerate(values) if not _is_unicode(value))
        raise ListContentError(
            f"has {shown(values[row])} in the column {name!r}, which is not valid Unicode",
            "If the file has another encoding than source.encoding, name it there, such as "
            "latin-1; otherwise correct the value.",
            place=f"line {lines[row]:,}",
        ) from None


def _is_unicode(value: str | list[str | None] | None) -> bool:
    parts = value if isinstance(value, list) else [value]
    return not any("\ud800" <= char <= "\udfff" for part in parts for char in part or "")


class Parquet(ListFormat):
    """Parquet, of which only the named columns are read."""

    name, suffixes = "Parquet", (".parquet",)

    def batches(self, source: IO[bytes], options: ListOptions) -> Iterator[pa.RecordBatch]:
        """The columns with their own types, row group by row group."""
        row = 0
        try:
            # With pre_buffer, the default, pyarrow holds whole row groups.
            file = pq.ParquetFile(
                source, pre_buffer=False, buffer_size=READ_BYTES, page_checksum_verification=True
            )
            check_columns(file.schema_arrow.names, options.names)
            names = list(options.names)
            for index in range(file.num_row_groups):
                size = min(options.batch_rows, _rows_that_fit(file.metadata.row_group(index)))
                for batch in file.iter_batches(size, row_groups=[index], columns=names):
                    yield batch
                    row += batch.num_rows
        except ListContentError:
            raise
        except Exception as error:
            raise self.unreadable(error, f"after row {row:,}") from error


def _rows_that_fit(group: pq.RowGroupMetaData) -> int:
    """How many rows of a row group have `MAX_BYTES` bytes on average, in all its columns.

    The sizes of single columns would be closer, but asking a damaged file for them aborts Python.
    """
    return max(1, MAX_BYTES * int(group.num_rows) // max(int(group.total_byte_size), 1))


FORMATS: tuple[ListFormat, ...] = (
    Parquet(),
    Text("CSV", ".csv", rows=partial(csv_rows, delimiter=",")),
    Text("TSV", ".tsv", rows=partial(csv_rows, delimiter="\t")),
    Text("JSON lines", ".json", ".jsonl", ".ndjson", rows=json_rows),
)
BY_SUFFIX: Mapping[str, ListFormat] = {s: format_ for format_ in FORMATS for s in format_.suffixes}
