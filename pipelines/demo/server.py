"""Serve the packaged images on the loopback address, with pages that fail on purpose."""

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from pipelines.core.errors import PipelineError
from pipelines.demo.dataset import HOST, emoji

log = logging.getLogger(__name__)

Page = tuple[str, bytes]  # content type, body


class DemoServerError(PipelineError):
    """The demo's server could not start."""


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


class Handler(BaseHTTPRequestHandler):
    """Answers GET requests. Logs at debug level only, because there are thousands of them."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a page, or with status 404."""
        page = find_page(self.path)
        status = HTTPStatus.NOT_FOUND if page is None else HTTPStatus.OK
        content_type, body = page or ("text/plain", b"There is no such image.\n")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log one request."""
        log.debug(format, *args)


class Server(ThreadingHTTPServer):
    """A server with daemon threads, and a backlog for many downloads at once."""

    daemon_threads = True
    request_queue_size = 256


@contextmanager
def serve(port: int) -> Iterator[int]:
    """Serve the packaged images on 127.0.0.1 until the block ends; yields the port.

    Port 0 means any free port. Raises DemoServerError if the port is in use.
    """
    try:
        server = Server((HOST, port), Handler)
    except OSError as error:
        raise DemoServerError(
            f"The demo's image server cannot listen on {HOST}:{port} ({error.strerror}): another "
            "program uses the port. Choose another port; 0 means any free one."
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    log.info("serving the demo's images on %s:%d", HOST, server.server_address[1])
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
