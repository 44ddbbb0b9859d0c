"""Download one slice of the list: fetch, decode, resize, encode, and note what became of each row.

Rows are fetched at the same time and written in the list's order. A row whose URL an earlier shard
knows is copied from there, with its outcome, and not fetched.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from pipelines.artifacts.schema import pair_key
from pipelines.core.errors import WorkLostError
from pipelines.core.filesystem import StoreError
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.core.tables import read_table
from pipelines.data.download_config import DownloadConfig
from pipelines.data.earlier import Earlier, Known, PairReader
from pipelines.data.fetch import Fetcher
from pipelines.data.images import ImageEncoder
from pipelines.data.outcomes import Book, Outcome, Row
from pipelines.data.responses import Fetched, check_hash
from pipelines.data.url_policy import Refused, join_url

log = logging.getLogger(__name__)

AHEAD = 4  # rows under way for each connection, at least
# Finished rows may wait this long for a slow one before them.
MAX_WAITING_ROWS = 1024
MAX_WAITING_BYTES = 64 << 20
PORTS = {"http": 80, "https": 443}
SERVER_ANSWERS_S = 10.0


@dataclass(frozen=True)
class DownloadItem:
    """One slice, and what is known about its rows from earlier shards."""

    url: str  # of the slice
    earlier: Earlier | None = None


@dataclass(frozen=True)
class Image:
    """What was fetched for a URL; several rows may have the same one."""

    columns: Row | None
    attempts: int
    refusal: Refused | None = None

    def outcome(self, row: Row) -> Outcome:
        """The outcome of a row with this URL."""
        reason, detail = (
            (self.refusal.reason, self.refusal.detail) if self.refusal else (None, None)
        )
        return Outcome(row, self.columns, reason, detail, self.attempts)


@dataclass(frozen=True)
class DownloadWorker:
    """Callable on a `DownloadItem`."""

    config: DownloadConfig
    base_url: str = ""  # for relative URLs in the list

    def __call__(self, item: DownloadItem, out: ShardWriter) -> Metadata:
        """Writes the pairs; attaches the outcomes of all rows."""
        return asyncio.run(self.download(item, out))

    async def download(self, item: DownloadItem, out: ShardWriter) -> Metadata:
        """The same, in an event loop."""
        rows = read_table(item.url).to_pylist()
        known = item.earlier.read(rows) if item.earlier else {}
        book = Book(out)
        with ThreadPoolExecutor(1, "decode") as decoder:
            async with Fetcher(self.config.policy, self.config.limits) as fetcher:
                session = Session(self, fetcher, decoder)
                async with aclosing(session.in_order(rows, known)) as outcomes:
                    async for outcome in outcomes:
                        book.add(outcome)
        counts = book.close(len(rows))
        return {**counts, "fetched": session.fetched, "received_bytes": session.received_bytes}

    @cached_property
    def encoder(self) -> ImageEncoder:
        """Makes the image columns, as the configuration says."""
        config = self.config
        return ImageEncoder(
            image_size=config.image_size,
            resize_mode=config.resize_mode,
            encode_format=config.encode_format,
            encode_quality=config.encode_quality,
            renditions=config.renditions,
            max_pixels=config.max_pixels,
        )


async def check_server(base_url: str, url: str) -> None:
    """Check that the server of a list's relative URLs still listens, if this URL is one.

    A driver that serves images stops when it is killed. Its rows then get no outcome, because the
    images still exist. Raises `WorkLostError`.
    """
    if not base_url or "://" in url:
        return
    server = urlsplit(base_url)
    port = server.port or PORTS[server.scheme]
    try:
        async with asyncio.timeout(SERVER_ANSWERS_S):
            _, connection = await asyncio.open_connection(server.hostname, port)
    except OSError as error:
        raise WorkLostError(
            f"The list's relative URLs are no longer served at {base_url}. Run again to resume."
        ) from error
    connection.close()


class Session:
    """The rows of one slice under way."""

    def __init__(
        self, worker: DownloadWorker, fetcher: Fetcher, decoder: ThreadPoolExecutor
    ) -> None:
        self.worker, self.fetcher, self.decoder = worker, fetcher, decoder
        self.reader = PairReader()
        self.at_least = AHEAD * worker.config.limits.connections
        # By URL and hash, of the rows under way.
        self.images: dict[tuple[str, str | None], asyncio.Task[Image]] = {}
        self.seen: set[str] = set()
        self.waiting_bytes = 0  # of finished rows
        self.body_bytes = 0  # of images that are not decoded yet
        self.fetched = self.received_bytes = 0  # in all

    async def in_order(
        self, rows: list[Row], known: Mapping[int, Known]
    ) -> AsyncGenerator[Outcome]:
        """The outcomes in the rows' order."""
        pending: deque[tuple[Row, asyncio.Task[Outcome]]] = deque()
        try:
            for number, row in enumerate(rows):
                pending.append((row, self.start(row, known.get(number))))
                while len(pending) >= self.limit():
                    yield await self.next(pending)
            while pending:
                yield await self.next(pending)
        finally:
            for task in [*(task for _, task in pending), *self.images.values()]:
                task.cancel()

    def limit(self) -> int:
        """How many rows may be under way or wait for a slow one before them."""
        return self.at_least if self.waiting_bytes > MAX_WAITING_BYTES else MAX_WAITING_ROWS

    async def next(self, pending: deque[tuple[Row, asyncio.Task[Outcome]]]) -> Outcome:
        """The outcome of the first row."""
        row, task = pending.popleft()
        outcome = await task
        self.images.pop((row["url"], row["hash"]), None)  # those under way have it already
        self.waiting_bytes -= outcome.nbytes
        return outcome

    def start(self, row: Row, known: Known | None) -> asyncio.Task[Outcome]:
        """Begin with a row."""
        key = pair_key(row["url"], row["caption"])
        is_repeat = key in self.seen
        self.seen.add(key)
        known, image = None if is_repeat else known, None
        if not is_repeat and known is None:
            image = self.images.get((row["url"], row["hash"]))
            if image is None:
                image = asyncio.create_task(self.fetch(row))
                self.images[row["url"], row["hash"]] = image
        return asyncio.create_task(self.outcome(row, known, image))

    async def outcome(
        self, row: Row, known: Known | None, image: "asyncio.Task[Image] | None"
    ) -> Outcome:
        """What became of a row: copied if it is known, else from its image."""
        if known is not None:
            outcome = await self.copy(row, known) or (await self.fetch(row)).outcome(row)
        elif image is None:
            outcome = Outcome(row, None, "duplicate_row")
        else:
            outcome = (await image).outcome(row)
        self.waiting_bytes += outcome.nbytes
        return outcome

    async def copy(self, row: Row, known: Known) -> Outcome | None:
        """The outcome that an earlier shard has; None if the shard is damaged."""
        pair = None
        if known.pair is not None:
            try:
                pair = await self.in_thread(self.reader.read, *known.pair)
            except StoreError as error:
                log.warning("fetching a row again, because %s", error)
                return None
        return Outcome(row, pair, known.reason, known.detail, known.attempts, known.time)

    async def fetch(self, row: Row) -> Image:
        """The image behind a row's URL, or why there is none."""
        received = 0
        try:
            fetched = await self.fetcher.fetch(join_url(self.worker.base_url, row["url"]))
            received = len(fetched.body)
            self.hold(received)
            columns = await self.decode(row, fetched)
            return Image(columns, fetched.attempts)
        except Refused as refusal:
            log.debug("rejected %s", refusal)
            if refusal.reason == "connection":
                await check_server(self.worker.base_url, row["url"])
            return Image(None, refusal.attempts, refusal)
        finally:
            self.hold(-received)
            self.fetched += 1
            self.received_bytes += received

    def hold(self, received: int) -> None:
        """Count the bytes of bodies in memory; with too many, no further request begins."""
        self.body_bytes += received
        if self.body_bytes > MAX_WAITING_BYTES:
            self.fetcher.room.clear()
        else:
            self.fetcher.room.set()

    async def decode(self, row: Row, fetched: Fetched) -> Row:
        """The image columns. Raises `Refused`."""
        if fetched.opts_out:
            detail = f"X-Robots-Tag: {fetched.headers['X-Robots-Tag']}"
            raise Refused("robots_tag", detail, attempts=fetched.attempts)
        if row["hash"]:
            check_hash(fetched.body, row["hash"])
        columns: Row = await self.in_thread(self.worker.encoder.columns, fetched.body)
        return columns

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the one thread that decodes."""
        return await asyncio.get_running_loop().run_in_executor(self.decoder, function, *args)
