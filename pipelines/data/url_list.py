"""Lists of URLs and captions in files, at any fsspec path, read as streams.

A folder stands for all the lists in it, in the order of their names. img2dataset's `Reader` is not
used: it holds whole files in memory, and recognizes a finished shard by its number alone.
"""

import hashlib
import logging
import lzma
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa

from pipelines.core.digests import file_digest
from pipelines.data.list_errors import UrlListError, explained
from pipelines.data.list_formats import BY_SUFFIX
from pipelines.data.list_rows import ListOptions

log = logging.getLogger(__name__)

DECOMPRESSORS: Mapping[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda file: pa.CompressedInputStream(file, "gzip"),
    ".bz2": lambda file: pa.CompressedInputStream(file, "bz2"),
    ".zst": lambda file: pa.CompressedInputStream(file, "zstd"),
    ".xz": lzma.open,
}
VERSION = ("size", "mtime", "ETag", "etag", "LastModified", "last_modified", "updated")


@dataclass(frozen=True)
class ListFile:
    """One file of a list."""

    url: str
    digest: str  # of its content
    version: str = field(default="", compare=False)  # size, time and etag, if it has them


def format_of(path: str) -> tuple[str, str]:
    """The suffix that names a file's format, and that of its compression or ""."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes[-2:]]
    if len(suffixes) == 2 and suffixes[1] in DECOMPRESSORS and suffixes[0] != ".parquet":
        return suffixes[0], suffixes[1]
    return (suffixes or [""])[-1], ""


def list_paths(path: str) -> tuple[Any, list[str]]:
    """The file system and the files of a path, at least one. Raises UrlListError.

    In a folder, hidden files and those in hidden folders do not count, nor names with a leading
    underscore: unfinished output of other programs has such names.
    """
    try:
        fs, root = _open_fs(path)
        if fs.isdir(root):
            names = sorted(fs.find(root))
            files = [name for name in names if _is_list(name, root)]
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


def _open_fs(url: str) -> tuple[Any, str]:
    """The file system and the path of a URL; listings are not cached, because files may change."""
    fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return fs, path


def _is_list(path: str, root: str) -> bool:
    parts = path.removeprefix(root).strip("/").split("/")
    return format_of(path)[0] in BY_SUFFIX and not any(part[0] in "._" for part in parts)


def list_files(path: str) -> tuple[ListFile, ...]:
    """The files of a list with the digests of their contents, in the order of their names.

    Digests are cached while the files stay the same. Raises UrlListError.
    """
    fs, paths = list_paths(path)
    try:
        return tuple(_list_file(fs, file, path) for file in paths)
    except Exception as error:  # each file system has exceptions of its own
        raise UrlListError(f"The URL list {path} cannot be read: {error}.") from error


def file_url(fs: Any, path: str, listed: str) -> str:
    """The URL of a file that was found at the URL `listed`."""
    outer = listed.partition("::")[2]  # such as the archive around the file
    url = str(fs.unstrip_protocol(path))
    return f"{url}::{outer}" if outer else url


def _list_file(fs: Any, path: str, listed: str) -> ListFile:
    url = file_url(fs, path, listed)
    version = _version(fs, path)  # before the digest: a change in between is noticed
    return ListFile(url, file_digest(url), version)


def _version(fs: Any, path: str) -> str:
    info = fs.info(path)
    return ", ".join(f"{name} {info[name]}" for name in VERSION if info.get(name) is not None)


def list_digest(files: Sequence[ListFile]) -> str:
    """sha256 over the digests of the files. Their names and their order do not matter."""
    return hashlib.sha256("".join(sorted(file.digest for file in files)).encode()).hexdigest()


def read_file(url: str, options: ListOptions) -> Generator[pa.RecordBatch, None, None]:
    """The rows of a file, with the columns and the types that it has. Raises UrlListError."""
    fs, path = _open_fs(url)
    suffix, compression = format_of(path)
    if suffix not in BY_SUFFIX:
        raise UrlListError(
            f"The URL list {url} has the suffix {suffix or '(none)'!r}. The readable suffixes are "
            f"{', '.join(BY_SUFFIX)}; text formats may have {', '.join(DECOMPRESSORS)} after them."
        )
    with ExitStack() as stack, explained(url):
        source = stack.enter_context(_opened(fs, path, url))
        if compression:
            source = stack.enter_context(DECOMPRESSORS[compression](source))
        yield from BY_SUFFIX[suffix].batches(source, options)


@contextmanager
def _opened(fs: Any, path: str, url: str) -> Iterator[IO[bytes]]:
    """An open file, uncached for Parquet, whose columns are read in turns in large pieces."""
    settings = {"cache_type": "none"} if format_of(path)[0] == ".parquet" else {}
    try:
        file = fs.open(path, "rb", **settings)
    except Exception as error:
        raise UrlListError(
            f"The URL list {url} cannot be opened: {str(error).rstrip('.')}. Check that it is "
            "there and that it may be read."
        ) from error
    with file:
        yield file


@contextmanager
def unchanged(file: ListFile) -> Iterator[None]:
    """Raise UrlListError if the file changes inside the block, whatever else goes wrong then."""
    try:
        yield
    except UrlListError:
        _check_version(file)
        raise
    _check_version(file)


def _check_version(file: ListFile) -> None:
    fs, path = _open_fs(file.url)
    now = _version(fs, path) if fs.exists(path) else "no file"
    if now != file.version:
        raise UrlListError(
            f"The URL list {file.url} changed while it was read (from {file.version} to {now}), so "
            "nothing of it was used. Run again when the file is complete."
        )
