"""Serve pages on the loopback address, for lists of URLs whose images come with the program."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipelines.core.errors import PipelineError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"

Page = tuple[str, bytes]  # content type, body
FindPage = Callable[[str], Page | None]  # from the path of a URL; None: there is no such page


class PageServerError(PipelineError):
    """The server of pages could not start."""


class Server(ThreadingHTTPServer):
    """A server with daemon threads, and a backlog for many downloads at once."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, find_page: FindPage) -> None:
        """Listen on the loopback address. Raises OSError if the port is in use."""
        super().__init__((HOST, port), Handler)
        self.find_page = find_page


class Handler(BaseHTTPRequestHandler):
    """Answers GET requests. Logs at debug level only, because there are thousands of them."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Answer with a page, or with status 404."""
        page = self.server.find_page(self.path)
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


@contextmanager
def serve_pages(find_page: FindPage, *, port: int, name: str) -> Iterator[int]:
    """Serve the pages on 127.0.0.1 until the block ends; yields the port.

    Port 0 means any free port. `name` says in messages what is served. `find_page` is called by
    several threads at a time. Raises PageServerError if the port is in use.
    """
    try:
        server = Server(port, find_page)
    except OSError as error:
        raise PageServerError(
            f"The server of {name} cannot listen on {HOST}:{port} ({error.strerror}): another "
            "program uses the port. Choose another port; 0 means any free one."
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    log.info("serving %s on %s:%d", name, HOST, server.server_address[1])
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
