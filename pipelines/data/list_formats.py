"""The file formats of URL lists. `FORMATS` is the one table of them."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Head:
    """What the beginning of a file shows."""

    columns: tuple[str, ...] | None  # None if only the whole file shows them
    has_rows: bool


class ListFormat(ABC):
    """Reads one format from an open, decompressed file. Errors are those of the parser."""

    suffixes: tuple[str, ...]

    @abstractmethod
    def read(self, source: IO[bytes], columns: tuple[str, str]) -> pa.Table:
        """The table, with at least the two columns if the file has both."""

    @abstractmethod
    def head(self, source: IO[bytes]) -> Head:
        """What the beginning shows, without reading the whole file."""


@dataclass(frozen=True)
class Separated(ListFormat):
    """CSV or TSV with a header."""

    delimiter: str
    suffixes: tuple[str, ...]

    def read(self, source: IO[bytes], columns: tuple[str, str]) -> pa.Table:
        """Every column; the two stay text even if they look like numbers."""
        return pa.csv.read_csv(
            source,
            parse_options=pa.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
        )

    def head(self, source: IO[bytes]) -> Head:
        """From the header and the first line after it.

        This uses Python's parser. Arrow's streaming parser has reader threads, which abort the
        process if it exits before they end.
        """
        text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="replace", newline="")
        try:
            columns = next(csv.reader(text, delimiter=self.delimiter), None)
            if not columns:
                raise ValueError("the first line is not a header")
            return Head(tuple(columns), has_rows=any(line.strip() for line in text))
        finally:
            text.detach()  # the caller closes the file


class Parquet(ListFormat):
    """Parquet, of which only the two columns are read."""

    suffixes = (".parquet",)

    def read(self, source: IO[bytes], columns: tuple[str, str]) -> pa.Table:
        """The two columns; an empty table of all columns if one of the two is missing."""
        file = pq.ParquetFile(source)
        if not set(columns) <= set(file.schema_arrow.names):
            return file.schema_arrow.empty_table()
        return file.read(columns=list(dict.fromkeys(columns)))

    def head(self, source: IO[bytes]) -> Head:
        """From the file's metadata."""
        file = pq.ParquetFile(source)
        return Head(tuple(file.schema_arrow.names), has_rows=file.metadata.num_rows > 0)


class JsonLines(ListFormat):
    """One JSON object per line."""

    suffixes = (".json", ".jsonl", ".ndjson")

    def read(self, source: IO[bytes], columns: tuple[str, str]) -> pa.Table:  # noqa: ARG002
        """Every column that a line has."""
        return pa.json.read_json(source)

    def head(self, source: IO[bytes]) -> Head:
        """No columns, because the first line may lack what a later one has."""
        return Head(None, has_rows=any(line.strip() for line in source))


FORMATS: tuple[ListFormat, ...] = (
    Parquet(),
    Separated(",", (".csv",)),
    Separated("\t", (".tsv",)),
    JsonLines(),
)
BY_SUFFIX: Mapping[str, ListFormat] = {s: format_ for format_ in FORMATS for s in format_.suffixes}
