"""Download one shard of a URL list: fetch behind the URL policy, decode, resize, encode.

Resizing and encoding, and the reading of X-Robots-Tag, are img2dataset's. Its own fetching opens
any scheme and any host without a limit, so `pipelines.data.fetch` takes its place; and the pictures
reach its resizer as plain RGB, because it would leave grey pictures grey and a half-received JPEG
half grey. img2dataset is used from one thread only: its resizer swaps the process's stdout while it
works.
"""

import hashlib
import io
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import urljoin

import pyarrow as pa

from pipelines.artifacts.schema import PAIRS, pair_key
from pipelines.data.decode import decode_rgb
from pipelines.data.fetch import Fetched, fetch_with_retries
from pipelines.data.url_policy import Refused, UrlPolicy
from unclip.config import Config, ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Wider ones are banners and rules; keeping their ratio would make pictures of gigabytes.
MAX_ASPECT_RATIO = 50.0
NO_AI_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
EXAMPLES_PER_REASON = 3
QUALITIES = {"jpg": range(1, 101), "png": range(10)}  # for PNG it is the compression


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(Config):
    """How pictures are fetched and stored."""

    tag: ClassVar[str] = "download"

    image_size: int  # pixels; what it bounds follows from resize_mode
    resize_mode: Literal["border", "keep_ratio", "center_crop", "no"]  # as img2dataset has them
    encode_format: Literal["jpg", "png"]  # of what is kept
    encode_quality: int  # 1-100 for jpg, compression 0-9 for png
    threads: int  # of one worker
    retries: int  # of what may pass, such as a time-out or a 503
    timeout_s: float  # for one picture
    max_bytes: int  # of one downloaded file
    min_success_rate: float  # of the whole list; the stage fails below it
    allow_hosts: tuple[str, ...] = ()  # "host" or "host:port" that may be private
    max_pixels: int = 64_000_000  # of one picture, before it is decoded

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
        """What may be fetched."""
        return UrlPolicy(
            max_bytes=self.max_bytes, timeout_s=self.timeout_s, allow_hosts=self.allow_hosts
        )


def map_ahead(
    pool: ThreadPoolExecutor, call: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Future[Result]]:
    """Futures in the items' order, at most `ahead` of them under way or waiting to be taken."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(call, item))
        if len(pending) >= ahead:
            yield pending.popleft()
    yield from pending


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
            # A name and a password do not belong in a manifest.
            examples.append(re.sub(r"//[^/@]*@", "//...@", url)[:500])


@dataclass(frozen=True)
class DownloadWorker:
    """Callable on a slice of the URL list (columns url, caption); made once a process."""

    config: DownloadConfig
    base_url: str = ""  # what relative addresses of the list are relative to

    def __call__(self, item: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
        """Returns PAIRS rows in the order of the list, and what became of the others."""
        tally = Tally()
        pairs = list(self.without_repeats(item, tally))
        rows: list[dict[str, Any]] = []
        received_bytes = 0
        with ThreadPoolExecutor(self.config.threads) as pool:
            urls = [url for url, _ in pairs]
            futures = map_ahead(pool, self.fetch, urls, ahead=2 * self.config.threads)
            for (url, caption), future in zip(pairs, futures, strict=True):
                try:
                    fetched = future.result()
                    received_bytes += len(fetched.body)
                    self.refuse_disallowed(fetched)
                    rows.append(self.make_row(url, caption, fetched.body))
                except Refused as refusal:
                    tally.add(refusal.reason, url)
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
        """The (url, caption) of a shard, each once."""
        seen: set[tuple[str, str]] = set()
        columns = item["url"].to_pylist(), item["caption"].to_pylist()
        for url, caption in zip(*columns, strict=True):
            pair = (url or "", caption or "")
            if pair in seen:
                tally.add("duplicate_row", pair[0])
            else:
                seen.add(pair)
                yield pair

    def fetch(self, url: str) -> Fetched:
        """Fetch one picture; runs in the pool's threads."""
        return fetch_with_retries(
            urljoin(self.base_url, url), self.config.policy, retries=self.config.retries
        )

    def refuse_disallowed(self, fetched: Fetched) -> None:
        """Raise `Refused` where the owner asks not to be used for training."""
        if self.is_disallowed(fetched.headers, None, NO_AI_DIRECTIVES):
            raise Refused("robots_tag", f"X-Robots-Tag: {fetched.headers['X-Robots-Tag']}")

    def make_row(self, url: str, caption: str, content: bytes) -> dict[str, Any]:
        """A row of PAIRS from the downloaded bytes. Raises `Refused`."""
        picture = decode_rgb(content, max_pixels=self.config.max_pixels)
        plain = io.BytesIO()
        picture.save(plain, "BMP")
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
        """img2dataset's, for one picture: (bytes, width, height, original size, error)."""
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else importing it asks the network
        from img2dataset.resizer import Resizer

        resizer: Callable[[io.BytesIO], tuple[Any, ...]] = Resizer(
            self.config.image_size,
            self.config.resize_mode,
            resize_only_if_bigger=False,
            encode_format=self.config.encode_format,
            encode_quality=self.config.encode_quality,
            max_aspect_ratio=MAX_ASPECT_RATIO,
        )
        return resizer

    @cached_property
    def is_disallowed(self) -> Callable[..., bool]:
        """img2dataset's reading of the X-Robots-Tag header."""
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        from img2dataset.downloader import is_disallowed

        function: Callable[..., bool] = is_disallowed
        return function
