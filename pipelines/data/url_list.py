"""Lists of URLs and captions in files, at any fsspec path.

A folder stands for all the lists in it, in the order of their names. img2dataset's `Reader` is not
used: it recognizes a finished shard by its number alone. Here, a shard is a slice of one table,
which the list's digest identifies.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.digests import file_digest
from pipelines.core.errors import PipelineError
from pipelines.data.list_formats import BY_SUFFIX, Head, ListFormat

log = logging.getLogger(__name__)

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}


class UrlListError(PipelineError):
    """The list of URLs cannot be read, or lacks columns or rows."""


def format_of(path: str) -> tuple[str, str | None]:
    """The suffix that names a file's format, and its compression."""
    name = PurePosixPath(path)
    compression = COMPRESSIONS.get(name.suffix.lower())
    return (PurePosixPath(name.stem) if compression else name).suffix.lower(), compression


def list_files(path: str, storage_options: dict[str, Any] | None = None) -> tuple[Any, list[str]]:
    """The file system and the files of a path, at least one. Raises UrlListError."""
    try:
        fs, root = fsspec.core.url_to_fs(path, **(storage_options or {}))
        if fs.isdir(root):
            files = sorted(f for f in fs.find(root) if format_of(f)[0] in BY_SUFFIX)
        else:
            files = [root] if fs.isfile(root) else []
    except Exception as error:  # each file system has its own exceptions, such as botocore's
        raise UrlListError(
            f"The URL list {path} cannot be reached: {str(error).rstrip('.')}. Check source.urls "
            "and, for a bucket, the credentials in the environment."
        ) from error
    if not files:
        raise UrlListError(
            f"There is no URL list at {path}. Give the path of a {', '.join(BY_SUFFIX)} file, or "
            "of a folder of them."
        )
    log.debug("%s has %d list files", path, len(files))
    return fs, files


@contextmanager
def opened(fs: Any, path: str) -> Iterator[tuple[ListFormat, IO[bytes]]]:
    """A file's format and decompressed content. Errors inside the block become UrlListError."""
    suffix, compression = format_of(path)
    if suffix not in BY_SUFFIX:
        raise UrlListError(
            f"The URL list {path} has the suffix {suffix or '(none)'!r}. The readable suffixes are "
            f"{', '.join(BY_SUFFIX)}; text formats may have .gz, .bz2 or .xz after them."
        )
    try:
        with fs.open(path, "rb", compression=compression) as source:
            yield BY_SUFFIX[suffix], source
    except UrlListError:
        raise
    except Exception as error:
        raise UrlListError(
            f"The URL list {path} is not readable as {suffix.removeprefix('.')}: "
            f"{' '.join(str(error).split()).rstrip('.')}. Check the file, or rename it with the "
            "suffix of its format."
        ) from error


def check_columns(found: Sequence[str], wanted: tuple[str, str], path: str) -> None:
    """Raise UrlListError, with the columns of the file, if a wanted one is missing."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UrlListError(
            f"The URL list {path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, found)) or 'none'}. Set url_column and caption_column to two "
            "of these."
        )


def check_rows(has_rows: bool, path: str) -> None:
    """Raise UrlListError for a list without rows."""
    if not has_rows:
        raise UrlListError(f"The URL list {path} has no rows. Give a list of at least one URL.")


def check_url_list(path: str, url_column: str, caption_column: str) -> None:
    """Raise UrlListError if the beginnings of the files show that the list cannot be used."""
    fs, files = list_files(path)
    heads: list[Head] = []
    for file in files:
        with opened(fs, file) as (format_, source):
            heads.append(format_.head(source))
        columns = heads[-1].columns
        if columns is not None:
            check_columns(columns, (url_column, caption_column), file)
    check_rows(any(head.has_rows for head in heads), path)


def as_text(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    """A column of strings; missing values become empty."""
    try:
        return pc.fill_null(column.cast(pa.string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UrlListError(
            f"The column {name!r} of {where} is {column.type}, not text. Name another column."
        ) from error


def read_file(fs: Any, path: str, url_column: str, caption_column: str) -> pa.Table:
    """One file of the list, with the columns url and caption."""
    columns = (url_column, caption_column)
    with opened(fs, path) as (format_, source):
        table = format_.read(source, columns)
    log.info("%s: %d rows", path, table.num_rows)
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
    """The list as a table with the columns url and caption. Raises UrlListError."""
    fs, files = list_files(path, storage_options)
    table = pa.concat_tables([read_file(fs, f, url_column, caption_column) for f in files])
    check_rows(table.num_rows > 0, path)
    return table


def list_digest(path: str) -> str:
    """sha256 over the digests of the list's files, in their order. Their paths do not matter.

    Digests are cached while the files stay the same. Raises UrlListError.
    """
    fs, files = list_files(path)
    try:
        digests = [file_digest(fs.unstrip_protocol(file)) for file in files]
    except Exception as error:  # each file system has exceptions of its own
        raise UrlListError(f"The URL list {path} cannot be read: {error}.") from error
    return hashlib.sha256("".join(digests).encode()).hexdigest()
