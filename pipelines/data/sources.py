"""Where the list of URLs and captions comes from: files, the demo, or a class of the user's own.

`source.urls` names it: a path or URL of files, a name in `SOURCES`, or "module:Name" for a
subclass of `ListSource`. A new built-in source is a class here and an entry in `SOURCES`.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipelines.data.url_list import check_url_list, list_digest, read_url_list
from pipelines.demo.dataset import HOST, data_digest, url_list
from pipelines.demo.server import serve
from unclip.config import Config, ConfigError, not_in_key
from unclip.extension import is_import, resolve

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Config):
    """The list of URLs and captions."""

    tag: ClassVar[str] = "source"

    # The digest of the list's content is in the key instead.
    urls: str = not_in_key()  # path or URL of Parquet, CSV, TSV, JSON lines; demo; module:Name
    url_column: str  # its column of URLs
    caption_column: str  # its column of captions
    rows_per_shard: int  # the unit of work and of resume, in every stage

    def __post_init__(self) -> None:
        if self.rows_per_shard < 1:
            raise ConfigError(f"rows_per_shard={self.rows_per_shard} must be at least 1")
        find_source(self)  # import a custom source now, so that its errors show early


@dataclass(frozen=True)
class ListSource(ABC):
    """A list of URLs and captions."""

    config: SourceConfig

    @abstractmethod
    def digest(self) -> str:
        """A digest of the list's content, which is part of the key."""

    @abstractmethod
    def read(self) -> pa.Table:
        """The list, with the text columns url and caption."""

    def check(self) -> None:  # noqa: B027 - by default there is nothing to check
        """Raise PipelineError or ConfigError if the list cannot be used. Reads little."""

    def served(self) -> AbstractContextManager[str]:
        """A context manager that yields the base of the list's relative URLs.

        A source that serves its own images does so while the context is open.
        """
        return nullcontext("")


@dataclass(frozen=True)
class FileList(ListSource):
    """Files at a path or URL; see `pipelines.data.url_list`."""

    def digest(self) -> str:
        """sha256 of the files' bytes."""
        return list_digest(self.config.urls)

    def read(self) -> pa.Table:
        """The files' rows, in the order of their names. Raises UrlListError."""
        return read_url_list(self.config.urls, self.config.url_column, self.config.caption_column)

    def check(self) -> None:
        """Raise UrlListError if the beginnings of the files show that `read` would fail."""
        check_url_list(self.config.urls, self.config.url_column, self.config.caption_column)


@dataclass(frozen=True)
class DemoList(ListSource):
    """The packaged list, whose images are served on the loopback address."""

    def digest(self) -> str:
        """sha256 of the packaged images and captions."""
        return data_digest()

    def read(self) -> pa.Table:
        """Relative URLs, so that the pairs' keys do not depend on the server's port."""
        return url_list()

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve on a free port."""
        with serve(0) as port:
            yield f"http://{HOST}:{port}"


SOURCES: Mapping[str, type[ListSource]] = {"demo": DemoList}


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
