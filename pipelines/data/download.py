"""Download one shard of a URL list: fetch under the URL policy, decode, resize, encode.

img2dataset resizes and encodes. Its downloader opens any scheme and any host without a limit, so
`pipelines.data.fetch` replaces it. Its resizer gets decoded RGB: by itself it would keep grey
images grey, and accept a truncated JPEG, half of it grey. The resizer runs in one thread only,
because it replaces the process's stdout while it works.
"""

import asyncio
import hashlib
import io
import logging
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, TypeVar

import pyarrow as pa

from pipelines.artifacts import EXAMPLES_PER_REASON
from pipelines.artifacts.schema import PAIRS, pair_key
from pipelines.data.decode import decode_rgb, load_resizer
from pipelines.data.fetch import Fetcher
from pipelines.data.fetch_limits import FetchLimits
from pipelines.data.responses import Fetched
from pipelines.data.url_policy import Refused, UrlPolicy, join_url
from unclip.config import Config, ConfigError, not_in_key

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# More extreme images are banners and rules; with keep_ratio they would grow to gigabytes.
MAX_ASPECT_RATIO = 50.0
MAX_RETRY_AFTER_S = 60.0
QUALITIES = {"jpg": range(1, 101), "png": range(10)}  # for PNG it is the compression


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(Config):
    """How images are fetched and stored."""

    tag: ClassVar[str] = "download"

    image_size: int  # pixels; which side it sets depends on resize_mode
    resize_mode: Literal["border", "keep_ratio", "center_crop", "no"]  # img2dataset's modes
    encode_format: Literal["jpg", "png"]  # of the stored image
    encode_quality: int  # 1-100 for jpg, compression 0-9 for png
    max_bytes: int  # of one downloaded file
    max_pixels: int = 64_000_000  # of one image, before it is decoded
    threads: int = not_in_key()  # of one worker
    retries: int = not_in_key()  # of transient failures, such as a time-out or a 503
    timeout_s: float = not_in_key()  # for one image
    min_success_rate: float = not_in_key()  # of the whole list; the stage fails below it
    allow_hosts: tuple[str, ...] = not_in_key(())  # "host" or "host:port" that may be private

    def __post_init__(self) -> None:
        allowed = QUALITIES[self.encode_format]
        if self.encode_quality not in allowed:
            raise ConfigError(
                f"encode_quality={self.encode_quality} is not possible for {self.encode_format}; "
                f"choose {allowed[0]} to {allowed[-1]}"
            )
        positive = ("image_size", "threads", "timeout_s", "max_bytes", "max_pixels")
        wrong = {name: getattr(self, name) for name in positive if getattr(self, name) <= 0}
        if wrong or self.retries < 0:
            raise ConfigError(
                f"{', '.join(f'{k}={v}' for k, v in wrong.items()) or f'retries={self.retries}'}: "
                f"{', '.join(positive)} must be positive and retries not negative"
            )
        if not 0 <= self.min_success_rate <= 1:
            raise ConfigError(f"min_success_rate={self.min_success_rate} is not between 0 and 1")

    @property
    def policy(self) -> UrlPolicy:
        """Which URLs may be fetched, and how much of each."""
        return UrlPolicy(max_bytes=self.max_bytes, allow_hosts=self.allow_hosts)

    @property
    def limits(self) -> FetchLimits:
        """How patiently a worker fetches."""
        return FetchLimits(
            connections=self.threads,
            connections_per_host=self.threads,
            retries=self.retries,
            timeout_s=self.timeout_s,
            max_retry_after_s=MAX_RETRY_AFTER_S,
        )


async def map_ahead(
    call: Callable[[Item], Coroutine[Any, Any, Result]], items: Iterable[Item], ahead: int
) -> AsyncIterator[Awaitable[Result]]:
    """Tasks in the items' order; at most `ahead` of them run or wait to be taken."""
    pending: deque[asyncio.Task[Result]] = deque()
    for item in items:
        pending.append(asyncio.create_task(call(item)))
        if len(pending) >= ahead:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


class Tally:
    """Rejections by reason, with a few of the URLs of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, url: str) -> None:
        """Count one rejection."""
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            # The manifest must not hold user names and passwords.
            examples.append(re.sub(r"//[^/@]*@", "//...@", url)[:500])


@dataclass(frozen=True)
class DownloadWorker:
    """Callable on a slice of the URL list (columns url, caption); created once per process."""

    config: DownloadConfig
    base_url: str = ""  # the base of relative URLs in the list

    def __call__(self, item: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
        """Returns PAIRS rows in the order of the list, and the rejections by reason."""
        return asyncio.run(self.download(item))

    async def download(self, item: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
        """Fetch the rows ahead of the one that is decoded."""
        tally = Tally()
        pairs = list(self.without_repeats(item, tally))
        rows: list[dict[str, Any]] = []
        received_bytes = 0
        async with Fetcher(self.config.policy, self.config.limits) as fetcher:
            fetch = partial(self.fetch, fetcher)
            answers = map_ahead(fetch, [url for url, _ in pairs], ahead=2 * self.config.threads)
            for url, caption in pairs:
                try:
                    fetched = await (await anext(answers))
                    received_bytes += len(fetched.body)
                    if fetched.opts_out:
                        robots_tag = fetched.headers["X-Robots-Tag"]
                        raise Refused("robots_tag", f"X-Robots-Tag: {robots_tag}")
                    # In a thread: the event loop keeps reading while an image is decoded.
                    row = await asyncio.to_thread(self.make_row, url, caption, fetched.body)
                    rows.append(row)
                except Refused as refusal:
                    log.debug("rejected %s", refusal)
                    tally.add(refusal.reason, url)
        log.info("downloaded %d of %d images: %s", len(rows), item.num_rows, dict(tally.counts))
        metadata = {
            "listed": item.num_rows,
            "downloaded": len(rows),
            "received_bytes": received_bytes,
            "rejected": dict(sorted(tally.counts.items())),
            "examples": dict(sorted(tally.examples.items())),
        }
        return pa.Table.from_pylist(rows, schema=PAIRS), metadata

    @staticmethod
    def without_repeats(item: pa.Table, tally: Tally) -> Iterator[tuple[str, str]]:
        """The distinct (url, caption) of a shard, in order."""
        seen: set[tuple[str, str]] = set()
        columns = item["url"].to_pylist(), item["caption"].to_pylist()
        for url, caption in zip(*columns, strict=True):
            pair = (url or "", caption or "")
            if pair in seen:
                tally.add("duplicate_row", pair[0])
            else:
                seen.add(pair)
                yield pair

    async def fetch(self, fetcher: Fetcher, url: str) -> Fetched:
        """Fetch one image."""
        return await fetcher.fetch(join_url(self.base_url, url))

    def make_row(self, url: str, caption: str, content: bytes) -> dict[str, Any]:
        """A row of PAIRS from the downloaded bytes. Raises `Refused`."""
        plain = io.BytesIO()
        decode_rgb(content, max_pixels=self.config.max_pixels).save(plain, "BMP")
        image, width, height, original_width, original_height, error = self.resizer(plain)
        if error is not None:
            known = {"aspect ratio too large": "aspect_ratio"}
            raise Refused(known.get(error, "unresizable"), error)
        return {
            "key": pair_key(url, caption),
            "url": url,
            "caption": caption,
            "image": image,
            "width": width,
            "height": height,
            "original_width": original_width,
            "original_height": original_height,
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    @cached_property
    def resizer(self) -> Callable[[io.BytesIO], tuple[Any, ...]]:
        """img2dataset's resizer of one image.

        Returns (bytes, width, height, original width, original height, error).
        """
        resizer: Callable[[io.BytesIO], tuple[Any, ...]] = load_resizer()(
            self.config.image_size,
            self.config.resize_mode,
            resize_only_if_bigger=False,
            encode_format=self.config.encode_format,
            encode_quality=self.config.encode_quality,
            max_aspect_ratio=MAX_ASPECT_RATIO,
        )
        return resizer
