"""A proxy before an S3 server that counts requests, delays them, and makes them fail.

    with S3Proxy("http://127.0.0.1:5000") as proxy:
        proxy.errors = 0.1  # of the requests
        ...
        proxy.counts["PUT"]

Speaks HTTP/1.1 without TLS. Faults are drawn from a seeded generator.
"""

import asyncio
import contextlib
import os
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import s3fs

ENDPOINT = "AWS_ENDPOINT_URL"
PIECE = 1 << 18  # bytes of a body that are in memory
SLOW_DOWN = (503, "SlowDown", "Please reduce your request rate.")
INTERNAL_ERROR = (500, "InternalError", "We encountered an internal error. Please try again.")


@dataclass
class Message:
    """The first line and the headers of a request or an answer."""

    first: str
    headers: list[tuple[str, str]]

    @classmethod
    async def read(cls, stream: asyncio.StreamReader) -> "Message":
        head = (await stream.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        return cls(first, [(n.lower(), v.strip()) for n, _, v in (s.partition(":") for s in lines)])

    def get(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    def encode(self) -> bytes:
        lines = [self.first, *(f"{n}: {v}" for n, v in self.headers if n != "expect")]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def body(self, stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """The pieces of the body, as they were sent."""
        if self.get("transfer-encoding") == "chunked":
            while True:
                line = await stream.readuntil(b"\r\n")
                size = int(line.split(b";")[0], 16)
                yield line + await stream.readexactly(size + 2)
                if not size:
                    return
        left = int(self.get("content-length") or 0)
        while left:
            piece = await stream.read(min(left, PIECE))
            if not piece:
                raise ConnectionError("the body is cut short")
            left -= len(piece)
            yield piece


@dataclass
class S3Proxy:
    """A context manager; serves on a loopback port in a thread of its own."""

    server: str  # the URL of the server behind it
    delay_s: float = 0.0  # of each request
    errors: float = 0.0  # share of the requests that are answered with 500
    throttled: float = 0.0  # with 503 SlowDown
    resets: float = 0.0  # that are carried out, but the connection is reset in place of the answer
    stall_s: float = 0.0  # of the next request; set to 0 when it begins
    counts: Counter[str] = field(default_factory=Counter)  # requests by method
    failed: Counter[str] = field(default_factory=Counter)  # requests by what went wrong
    seed: int = 0

    def __enter__(self) -> "S3Proxy":
        self.random = random.Random(self.seed)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        starting = asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=256)
        self.listener = asyncio.run_coroutine_threadsafe(starting, self.loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _end(self) -> None:
        """Close all connections."""
        self.listener.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    @property
    def url(self) -> str:
        host, port = self.listener.sockets[0].getsockname()
        return f"http://{host}:{port}"

    def taken(self) -> Counter[str]:
        """The requests by method since the last call."""
        taken, self.counts = self.counts, Counter()
        return taken

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection, over one connection to the server."""
        target = urlsplit(self.server)
        behind = await asyncio.open_connection(target.hostname, target.port)
        lost = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*lost):
            while await self._request(await Message.read(reader), reader, writer, *behind):
                pass
        for each in (writer, behind[1]):
            each.close()

    async def _request(
        self,
        request: Message,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> bool:
        """Pass one request on and its answer back; returns whether the connection lives on."""
        method = request.first.partition(" ")[0]
        self.counts[method] += 1
        fault = self._draw()
        if request.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        stall_s, self.stall_s = self.stall_s, 0.0
        await asyncio.sleep(self.delay_s + stall_s)
        if fault in ("errors", "throttled"):
            async for _ in request.body(reader):
                pass
            writer.write(_refusal(*(SLOW_DOWN if fault == "throttled" else INTERNAL_ERROR)))
            await writer.drain()
            return True
        server.write(request.encode())
        async for piece in request.body(reader):
            server.write(piece)
            await server.drain()
        answer = await Message.read(answers)
        if fault == "resets":
            writer.transport.abort()
            return False
        writer.write(answer.encode())
        if method != "HEAD" and answer.first.split()[1] not in ("204", "304"):
            async for piece in answer.body(answers):
                writer.write(piece)
                await writer.drain()
        await writer.drain()
        return answer.get("connection").lower() != "close"

    def _draw(self) -> str:
        """What goes wrong with the next request; "" if nothing does."""
        left = self.random.random()
        for name in ("errors", "throttled", "resets"):
            left -= getattr(self, name)
            if left < 0:
                self.failed[name] += 1
                return name
        return ""


def _refusal(status: int, code: str, message: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@contextlib.contextmanager
def proxied() -> Iterator[S3Proxy]:
    """A proxy before the server of the environment, for this process and those that it starts."""
    server = os.environ[ENDPOINT]
    with S3Proxy(server) as proxy:
        os.environ[ENDPOINT] = proxy.url
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield proxy
        finally:
            os.environ[ENDPOINT] = server
            s3fs.S3FileSystem.clear_instance_cache()
