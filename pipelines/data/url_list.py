"""Read a list of URLs and captions from any fsspec path: Parquet, CSV, TSV or JSON lines.

A folder stands for all the lists in it, in the order of their names. (img2dataset's `Reader` writes
numbered Arrow files, and takes a shard as done by its number alone; here a shard is a slice of one
table, whose identity is the list's digest.)
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipelines.core.errors import PipelineError

CHUNK_BYTES = 1 << 20
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}


class UrlListError(PipelineError):
    """The list of URLs cannot be read, or does not hold what was asked of it."""


def read_separated(source: IO[bytes], columns: tuple[str, str], delimiter: str) -> pa.Table:
    """CSV or TSV with a header; the two columns stay text also where they look like numbers."""
    return pa.csv.read_csv(
        source,
        parse_options=parse_options(delimiter),
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
    )


def parse_options(delimiter: str) -> Any:
    """How CSV and TSV are read."""
    return pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def separated_header(source: IO[bytes], delimiter: str) -> list[str]:
    """The names of the columns of CSV or TSV, from its first rows."""
    names: list[str] = pa.csv.open_csv(source, parse_options=parse_options(delimiter)).schema.names
    return names


def read_parquet(source: IO[bytes], columns: tuple[str, str]) -> pa.Table:
    """Only the two columns, where the file has them; else none, so that the names can be listed."""
    file = pq.ParquetFile(source)
    names = file.schema_arrow.names
    if not set(columns) <= set(names):
        return file.schema_arrow.empty_table()
    return file.read(columns=list(dict.fromkeys(columns)))


READERS: dict[str, Callable[[IO[bytes], tuple[str, str]], pa.Table]] = {
    ".parquet": read_parquet,
    ".csv": lambda source, columns: read_separated(source, columns, ","),
    ".tsv": lambda source, columns: read_separated(source, columns, "\t"),
    ".json": lambda source, _: pa.json.read_json(source),
    ".jsonl": lambda source, _: pa.json.read_json(source),
    ".ndjson": lambda source, _: pa.json.read_json(source),
}

# JSON lines have no header: the first row may lack what a later one has.
HEADERS: dict[str, Callable[[IO[bytes]], list[str]]] = {
    ".parquet": lambda source: list(pq.ParquetFile(source).schema_arrow.names),
    ".csv": lambda source: separated_header(source, ","),
    ".tsv": lambda source: separated_header(source, "\t"),
}


def format_of(path: str) -> tuple[str, str | None]:
    """The suffix that says how to read a file, and its compression."""
    name = PurePosixPath(path)
    compression = COMPRESSIONS.get(name.suffix.lower())
    return (PurePosixPath(name.stem) if compression else name).suffix.lower(), compression


def list_files(path: str, storage_options: dict[str, Any] | None) -> tuple[Any, list[str]]:
    """The file system and the files that a path stands for. Raises UrlListError where none is."""
    try:
        fs, root = fsspec.core.url_to_fs(path, **(storage_options or {}))
        if fs.isdir(root):
            files = sorted(f for f in fs.find(root) if format_of(f)[0] in READERS)
        else:
            files = [root] if fs.isfile(root) else []
    except Exception as error:  # file systems raise what they like: boto's has no base in Python's
        raise UrlListError(
            f"The URL list {path} cannot be reached: {str(error).rstrip('.')}. Check source.urls "
            "and, for a bucket, the credentials in the environment."
        ) from error
    if not files:
        raise UrlListError(
            f"There is no URL list at {path}. Give the path of a {', '.join(READERS)} file, or of "
            "a folder of them."
        )
    return fs, files


def as_text(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    """A column of strings, missing values as empty ones."""
    try:
        return pc.fill_null(column.cast(pa.string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UrlListError(
            f"The column {name!r} of {where} is {column.type}, not text. Name another column."
        ) from error


@contextmanager
def opened(fs: Any, path: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Suffix and decompressed content of a file; tells as `UrlListError` what cannot be read."""
    suffix, compression = format_of(path)
    if suffix not in READERS:
        raise UrlListError(
            f"The URL list {path} has the suffix {suffix or '(none)'!r}; {', '.join(READERS)} can "
            "be read, CSV, TSV and JSON lines also with .gz, .bz2 or .xz after it."
        )
    try:
        with fs.open(path, "rb", compression=compression) as source:
            yield suffix, source
    except UrlListError:
        raise
    except Exception as error:
        raise UrlListError(
            f"The URL list {path} is not readable as {suffix.removeprefix('.')}: "
            f"{' '.join(str(error).split()).rstrip('.')}. Check "
            "the file, or give it the suffix of what it is."
        ) from error


def check_columns(there: Sequence[str], wanted: tuple[str, str], path: str) -> None:
    """Raise `UrlListError` with the columns that are there where one is not."""
    missing = [name for name in wanted if name not in there]
    if missing:
        raise UrlListError(
            f"The URL list {path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, there)) or 'none'}. Set url_column and caption_column to two "
            "of these."
        )


def read_file(fs: Any, path: str, url_column: str, caption_column: str) -> pa.Table:
    """One file of the list as (url, caption)."""
    columns = (url_column, caption_column)
    with opened(fs, path) as (suffix, source):
        table = READERS[suffix](source, columns)
    check_columns(table.column_names, columns, path)
    return pa.table(
        {
            "url": as_text(table[url_column], url_column, path),
            "caption": as_text(table[caption_column], caption_column, path),
        }
    )


def read_url_list(
    path: str,
    url_column: str = "url",
    caption_column: str = "caption",
    storage_options: dict[str, Any] | None = None,
) -> pa.Table:
    """Read a list as a table with the columns url and caption. Raises UrlListError."""
    fs, files = list_files(path, storage_options)
    table = pa.concat_tables([read_file(fs, f, url_column, caption_column) for f in files])
    if table.num_rows == 0:
        raise UrlListError(f"The URL list {path} has no rows. Give a list of at least one URL.")
    return table


def check_url_list(path: str, url_column: str, caption_column: str) -> None:
    """Raise `UrlListError` where the beginnings of the list's files tell that it is none."""
    fs, files = list_files(path, None)
    for file in files:
        with opened(fs, file) as (suffix, source):
            there = HEADERS[suffix](source) if suffix in HEADERS else None
        if there is not None:
            check_columns(there, (url_column, caption_column), file)


def read_chunks(source: IO[bytes]) -> Iterator[bytes]:
    """A file in pieces that fit into memory."""
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def list_digest(path: str, storage_options: dict[str, Any] | None = None) -> str:
    """sha256 of the list's bytes, file by file, whatever the place that it lies in."""
    fs, files = list_files(path, storage_options)
    whole = hashlib.sha256()
    for file in files:
        one = hashlib.sha256()
        with fs.open(file, "rb") as source:
            for chunk in read_chunks(source):
                one.update(chunk)
        whole.update(one.digest())
    return whole.hexdigest()
