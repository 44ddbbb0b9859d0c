"""Where the list of URLs and captions comes from: files, the demo, or a class of the user's own.

`source.urls` names it: a path or URL of files, a name in `SOURCES`, or "module:Name" for a
subclass of `ListSource`. A new built-in source is a class here and an entry in `SOURCES`.
"""

import codecs
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal

import pyarrow as pa

from pipelines.core.page_server import HOST
from pipelines.data.list_columns import MAX_ROWS, RESERVED, ListColumns, typed_batches
from pipelines.data.list_errors import UrlListError, explained
from pipelines.data.list_rows import ListOptions
from pipelines.data.url_list import (
    ListFile,
    file_url,
    list_digest,
    list_files,
    list_paths,
    read_file,
    unchanged,
)
from pipelines.demo import dataset as demo
from pipelines.demo import server as demo_server
from pipelines.emoji import dataset as emoji
from pipelines.scenes import dataset as scenes
from unclip.config import Config, ConfigError, not_in_key
from unclip.extension import is_import, resolve

log = logging.getLogger(__name__)

CHECKED_ROWS = 16  # of each file, before a run


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Config):
    """The list of URLs and captions."""

    tag: ClassVar[str] = "source"

    # The digest of the list's content is in the key instead.
    urls: str = not_in_key()  # path or URL of a table; demo; emoji; scenes; module:Name
    url_column: str  # its column of URLs
    caption_column: str | tuple[str, ...]  # its column of captions, or of lists of them; or several
    rows_per_shard: int  # the unit of work and of resume, in every stage
    columns: Mapping[str, Literal["number", "text"]] | None = None  # more columns to keep
    hash_column: str | None = None  # its column of the files' md5, sha1, sha256 or sha512, in hex
    split_column: str | None = None  # its column of splits, which decide which rows are held out
    held_out_splits: tuple[str, ...] = ()  # the splits that are held out; the others train
    delimiter: str | None = None  # between the fields of CSV and TSV; null: by the suffix
    encoding: str = "utf-8"  # of CSV, TSV and JSON lines

    def __post_init__(self) -> None:
        if self.rows_per_shard < 1:
            raise ConfigError(f"rows_per_shard={self.rows_per_shard} must be at least 1")
        _check_columns(self)
        _check_text(self)
        find_source(self)  # import a custom source now, so that its errors show early


def _check_columns(config: SourceConfig) -> None:
    if not config.caption_column:
        raise ConfigError("caption_column is empty; name at least one column")
    taken = sorted(RESERVED & set(config.columns or {}))
    if taken:
        raise ConfigError(
            f"columns has {', '.join(taken)}, which every pair has already; rename the column in "
            "the list"
        )
    if bool(config.held_out_splits) != (config.split_column is not None):
        raise ConfigError(
            f"split_column={config.split_column} and held_out_splits="
            f"{list(config.held_out_splits)} need each other; give both or neither"
        )


def _check_text(config: SourceConfig) -> None:
    if config.delimiter is not None and (
        len(config.delimiter) != 1 or config.delimiter in '"\r\n '
    ):
        raise ConfigError(
            f"delimiter={config.delimiter!r} must be one character, such as ';', and not a quote, "
            "a space or a line break"
        )
    try:
        codecs.lookup(config.encoding)
        "".encode(config.encoding)  # refuses codecs between bytes, such as hex
    except LookupError as error:
        raise ConfigError(
            f"encoding={config.encoding!r} is no text encoding that Python knows; such are utf-8, "
            "utf-16, latin-1, cp1252, shift_jis"
        ) from error


def list_columns(config: SourceConfig) -> ListColumns:
    """The columns that are read, and as what."""
    captions = config.caption_column
    return ListColumns(
        url=config.url_column,
        captions=(captions,) if isinstance(captions, str) else captions,
        hash=config.hash_column,
        split=config.split_column,
        held_out_splits=config.held_out_splits,
        extra=config.columns,
    )


def list_schema(config: SourceConfig) -> pa.Schema:
    """The schema of every batch: url, caption, hash, held_out, and `config.columns`.

    url and caption are "" where the list has none. hash is the hexadecimal digest of the file
    behind the URL, or null. held_out is null where the list does not say.
    """
    return list_columns(config).schema


@dataclass(frozen=True)
class ListSource(ABC):
    """A list of URLs and captions, read as a stream.

    A source of your own is a subclass with two methods: `digest`, and `tables`, which yields the
    rows bit by bit. `batches` gives them the types and sizes that the pipeline expects, with the
    columns that the configuration names.

        class MyList(ListSource):
            def digest(self) -> str:
                return "edition 7"

            def tables(self, file):
                for page in range(100):
                    yield {"url": urls_of(page), "caption": captions_of(page)}

    A list of several parts can override `files` as well, so that workers read the parts at the same
    time: `tables` is then called for each.
    """

    config: SourceConfig

    @abstractmethod
    def digest(self) -> str:
        """A digest of the list's content, which is part of the key."""

    @abstractmethod
    def tables(self, file: ListFile) -> Iterable[Any]:
        """The rows of one of `files`, in tables of any size.

        A table is anything that `pyarrow.table` takes: a mapping of names to values, a pandas
        DataFrame, an Arrow table. It has the columns that the configuration names.
        """

    def files(self) -> Sequence[ListFile]:
        """The parts of the list, each with the digest of its content. By default, it is one."""
        return (ListFile(self.config.urls, self.digest()),)

    def batches(self, file: ListFile) -> Iterator[pa.RecordBatch]:
        """The rows of one of `files`, in its order, as batches of `list_schema`.

        A batch has at most 8,192 rows and 16 MiB. Raises `UrlListError`.
        """
        with explained(file.url):
            yield from typed_batches(self.tables(file), list_columns(self.config))

    def all_batches(self) -> Iterator[pa.RecordBatch]:
        """The batches of all files. Raises `UrlListError`, also for a list without rows."""
        is_empty = True
        for file in self.files():
            for batch in self.batches(file):
                is_empty = False
                yield batch
        if is_empty:
            raise no_rows(self.config.urls)

    def check(self) -> None:  # noqa: B027 - by default there is nothing to check
        """Raise PipelineError or ConfigError if the list cannot be used. Reads little."""

    def served(self) -> AbstractContextManager[str]:
        """A context manager that yields the base of the list's relative URLs.

        A source that serves its own images does so while the context is open.
        """
        return nullcontext("")


def no_rows(urls: str) -> UrlListError:
    """The error of a list without rows."""
    return UrlListError(f"The URL list {urls} has no rows. Give a list of at least one URL.")


@dataclass(frozen=True)
class FileList(ListSource):
    """Files at a path or URL; see `pipelines.data.url_list`."""

    def digest(self) -> str:
        """sha256 of the files' bytes; their names and their order do not matter."""
        return list_digest(self.files())

    def files(self) -> Sequence[ListFile]:
        """The files in the order of their names. Raises UrlListError."""
        return list_files(self.config.urls)

    def tables(self, file: ListFile) -> Iterator[pa.RecordBatch]:
        """The file's rows with its own types. Raises UrlListError."""
        return read_file(file.url, self._options())

    def batches(self, file: ListFile) -> Iterator[pa.RecordBatch]:
        """The file's rows. Raises UrlListError, also if the file changed since `files`."""
        with unchanged(file):
            yield from super().batches(file)

    def check(self) -> None:
        """Raise UrlListError if the beginnings of the files show that they cannot be used."""
        fs, paths = list_paths(self.config.urls)
        have_rows = [self._has_rows(file_url(fs, path, self.config.urls)) for path in paths]
        if not any(have_rows):
            raise no_rows(self.config.urls)

    def _has_rows(self, url: str) -> bool:
        """Whether a file has rows, of which the first are read and checked."""
        with explained(url), closing(read_file(url, self._options(CHECKED_ROWS))) as tables:
            return next(typed_batches(tables, list_columns(self.config)), None) is not None

    def _options(self, batch_rows: int = MAX_ROWS) -> ListOptions:
        names, config = list_columns(self.config).names, self.config
        return ListOptions(names, config.delimiter, config.encoding, batch_rows)


@contextmanager
def _loopback(serve: Callable[[int], AbstractContextManager[int]]) -> Iterator[str]:
    """Serve on a free port; yields the base of relative URLs."""
    with serve(0) as port:
        yield f"http://{HOST}:{port}"


@dataclass(frozen=True)
class PackagedList(ListSource):
    """A packaged list with relative URLs, whose images are served on the loopback address.

    The pairs' keys do not depend on the server's port.
    """

    data: ClassVar[ModuleType]  # has digest() and url_list()
    server: ClassVar[ModuleType]  # has serve(port)

    def digest(self) -> str:
        """sha256 of the images and of the rows of the list."""
        return str(self.data.digest())

    def tables(self, file: ListFile) -> Iterator[pa.Table]:  # noqa: ARG002 - there is one
        """The list."""
        yield self.data.url_list()

    def served(self) -> AbstractContextManager[str]:
        """Serve on a free port."""
        return _loopback(self.server.serve)


class DemoList(PackagedList):
    """The demo's emoji, and rows that fail on purpose."""

    data: ClassVar[ModuleType] = demo
    server: ClassVar[ModuleType] = demo_server


class SceneList(PackagedList):
    """Drawn scenes, with a column `split`: train or held_out."""

    data: ClassVar[ModuleType] = scenes
    server: ClassVar[ModuleType] = scenes


class EmojiList(PackagedList):
    """Four families of emoji with several captions each, and the column `split`."""

    data: ClassVar[ModuleType] = emoji
    server: ClassVar[ModuleType] = emoji


SOURCES: Mapping[str, type[ListSource]] = {
    "demo": DemoList,
    "scenes": SceneList,
    "emoji": EmojiList,
}


def find_source(config: SourceConfig) -> ListSource:
    """The source that `config.urls` names. Raises `ConfigError`."""
    if config.urls not in SOURCES and not is_import(config.urls):
        return FileList(config)
    found: object = resolve(config.urls, SOURCES, what="list source")
    if not (isinstance(found, type) and issubclass(found, ListSource)):
        raise ConfigError(
            f"urls={config.urls} is {found!r}, which is not a list source; write a subclass of "
            "pipelines.data.sources.ListSource"
        )
    log.debug("%s is the list source %s", config.urls, found.__qualname__)
    return found(config)
