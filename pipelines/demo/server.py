"""Serve the packaged images on the loopback address, with pages that fail on purpose."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache

from PIL import Image

from pipelines.core.page_server import Page, serve_pages
from pipelines.demo.dataset import emoji


def flat_image(width: int, height: int) -> bytes:
    """A JPEG of one colour."""
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), (70, 130, 180)).save(encoded, "JPEG")
    return encoded.getvalue()


@cache
def images() -> dict[str, bytes]:
    """The packaged JPEGs by key."""
    table = emoji()
    return dict(zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True))


def web_page() -> Page:
    """A page like those that many hosts send, with status 200, instead of a deleted image."""
    return "text/html", b"<!doctype html><title>Gone</title><p>This picture has moved."


def truncated_image() -> Page:
    """The first half of a JPEG."""
    whole = images()["1f34e"]
    return "image/jpeg", whole[: len(whole) // 2]


FAILING_PAGES: dict[str, Callable[[], Page]] = {
    "/fail/page.jpg": web_page,
    "/fail/truncated.jpg": truncated_image,
    "/fail/tiny.jpg": lambda: ("image/jpeg", flat_image(8, 8)),
    "/fail/wide.jpg": lambda: ("image/jpeg", flat_image(640, 32)),
}


def find_page(path: str) -> Page | None:
    """The page at a path, or None."""
    if path in FAILING_PAGES:
        return FAILING_PAGES[path]()
    key = path.removeprefix("/emoji/").removesuffix(".jpg")
    image = images().get(key) if path == f"/emoji/{key}.jpg" else None
    return None if image is None else ("image/jpeg", image)


def serve(port: int) -> AbstractContextManager[int]:
    """Serve the packaged images on 127.0.0.1 until the block ends; yields the port.

    Port 0 means any free port. Raises PageServerError if the port is in use.
    """
    return serve_pages(find_page, port=port, name="the demo's images")
