"""A photo server for the benchmarks of the download, in a process of its own.

It serves the pictures of a Parquet file (columns image and captions) from memory, enlarged to the
size of photos on the web, and notes when each request came.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from aiohttp import web
from PIL import Image

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Photos:
    """A running server."""

    port: int
    captions: list[str]

    def url(self, number: int) -> str:
        """The URL of a photo."""
        return f"http://{HOST}:{self.port}/{number}.jpg"

    def row(self, number: int) -> dict[str, str]:
        """A row of a list."""
        return {"url": self.url(number), "caption": self.captions[number]}

    def requests(self) -> list[float]:
        """When the requests since the last call came, by `time.time`."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/requests") as answer:
            times: list[float] = json.load(answer)
        return times

    def fail(self, numbers: list[int], status: int) -> None:
        """Answer for these photos with a status from now on, and for all others with the photo."""
        body = json.dumps({"numbers": numbers, "status": status}).encode()
        urllib.request.urlopen(f"http://{HOST}:{self.port}/fail", body).close()


@contextmanager
def serve(pictures: Path, count: int, size: tuple[int, int]) -> Iterator[Photos]:
    """Serve the first `count` pictures of a file at this size."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(pictures, count, size, theirs), daemon=True)
    process.start()
    port, captions = ours.recv()
    try:
        yield Photos(port, captions)
    finally:
        process.terminate()
        process.join()


def _serve(pictures: Path, count: int, size: tuple[int, int], ready: Connection) -> None:
    table = pq.read_table(pictures, columns=["image", "captions"]).slice(0, count)
    photos = [_photo(image, size) for image in table["image"].to_pylist()]
    captions = [captions[0] for captions in table["captions"].to_pylist()]
    asyncio.run(_run(photos, captions, ready))


def _photo(image: bytes, size: tuple[int, int]) -> bytes:
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(image)) as small:
        large = small.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    large.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


async def _run(photos: list[bytes], captions: list[str], ready: Connection) -> None:
    times: list[float] = []
    failing: dict[str, Any] = {"numbers": [], "status": 200}

    async def photo(request: web.Request) -> web.Response:
        times.append(time.time())
        number = int(request.match_info["number"])
        if number in failing["numbers"]:
            return web.Response(status=failing["status"])
        return web.Response(body=photos[number], content_type="image/jpeg")

    async def requests(_: web.Request) -> web.Response:
        taken, times[:] = list(times), []
        return web.json_response(taken)

    async def fail(request: web.Request) -> web.Response:
        failing.update(await request.json())
        return web.Response()

    app = web.Application()
    app.add_routes(
        [
            web.get("/{number:\\d+}.jpg", photo),
            web.get("/requests", requests),
            web.post("/fail", fail),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    ready.send((runner.addresses[0][1], captions))
    await asyncio.Event().wait()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The arguments that these benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("pictures", type=Path, help="Parquet with the columns image and captions")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--side", type=int, default=512, help="of the served photos, in pixels")
    return parser
