"""A web server that counts its requests, and the first stages of the pipeline on a list file."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.data.download_config import DownloadConfig
from pipelines.data.sources import SourceConfig
from pipelines.stages.download import Download
from pipelines.stages.url_list import UrlList
from tests.pipelines.web import body, web


def picture(number: int, side: int = 48) -> bytes:
    """A JPEG that differs from those of other numbers."""
    pixels = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    encoded = BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).save(encoded, "JPEG")
    return encoded.getvalue()


@dataclass
class Site:
    """Pictures /0.jpg, /1.jpg and so on; those in `broken` answer with their status."""

    base: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    broken: dict[int, int] = field(default_factory=dict)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests[handler.path] += 1
        number = int(handler.path.strip("/").removesuffix(".jpg"))
        status = self.broken.get(number, 200)
        body(picture(number) if status == 200 else b"", status)(handler)

    def taken(self) -> int:
        """The number of requests since the last call."""
        total = self.requests.total()
        self.requests.clear()
        return total

    def row(self, number: int, caption: str | None = None) -> tuple[str, str]:
        return f"{self.base}/{number}.jpg", caption or f"picture number {number}"


@contextmanager
def site() -> Iterator[Site]:
    made = Site()
    with web(defaultdict(lambda: made.answer)) as made.base:
        yield made


def write_csv(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([("url", "caption"), *rows])


def download_stage(
    path: Path | str, store: str, rows_per_shard: int = 20, **changes: Any
) -> Download:
    source = SourceConfig(
        urls=str(path), url_column="url", caption_column="caption", rows_per_shard=rows_per_shard
    )
    settings: dict[str, Any] = {
        "image_size": 32,
        "resize_mode": "center_crop",
        "encode_format": "png",
        "encode_quality": 1,
        "max_bytes": 10**6,
        "connections": 8,
        "retries": 0,
        "timeout_s": 10.0,
        "min_success_rate": 0.0,
        "allow_hosts": ("127.0.0.1",),
    }
    return Download(UrlList(source), DownloadConfig(**settings | changes), source, store)
