"""A real web server on a loopback address whose pages are functions."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Page = Callable[[BaseHTTPRequestHandler], None]


def body(content: bytes, status: int = 200, **headers: str) -> Page:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def kept_alive(content: bytes, status: int = 200, **headers: str) -> Page:
    """A body after which the connection stays open, where `web` is told to keep it."""
    return body(content, status, Content_Length=str(len(content)), **headers)


def raw(answer: bytes) -> Page:
    """These bytes, whether they are HTTP or not."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(answer)

    return write


def endless(head: bytes, part: bytes) -> Page:
    """Write a part again and again, until the client hangs up."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while True:
            handler.wfile.write(part)

    return write


def redirect(location: str) -> Page:
    return body(b"", 302, Location=location)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte every 50 ms: never slow enough for a timeout between two reads."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # more than a test opens at once


@contextmanager
def web(
    pages: dict[str, Page],
    tls: ssl.SSLContext | None = None,
    *,
    host: str = "127.0.0.1",
    keep_alive: bool = False,
) -> Iterator[str]:
    """A real server with these pages; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"

        def do_GET(self) -> None:
            with suppress(ConnectionError):
                pages[self.path](self)

        def log_message(self, *args: object) -> None:
            pass

    server = Server((host, 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
