"""The policy holds behind a proxy: the proxy is told checked addresses, and no names to resolve."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.data.fetch_limits import FetchLimits
from tests.pipelines.fetching import LIMITS, STRICT, fetch, port_of, reason, refusal
from tests.pipelines.test_tls import self_signed
from tests.pipelines.web import body, redirect, web
from unclip.config import ConfigError

POLICY = replace(STRICT, allow_hosts=("pictures.invalid",))


def loopback(host: str, port: int) -> tuple[str, ...]:
    return ("127.0.0.1",)


def pump(one: socket.socket, other: socket.socket) -> None:
    """Copy what either side sends to the other, until one closes."""
    peer = {one: other, other: one}
    while True:
        for ready in select.select([one, other], [], [])[0]:
            part = ready.recv(65536)
            if not part:
                return
            peer[ready].sendall(part)


@contextmanager
def proxy(refuse: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """A real proxy; yields its address and the request lines that it gets."""
    lines: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            lines.append(self.requestline)
            if refuse:
                self.send_error(refuse)
                return
            host, port = self.path.rsplit(":", 1)
            with socket.create_connection((host, int(port))) as upstream, suppress(OSError):
                self.send_response(200)
                self.end_headers()
                pump(self.connection, upstream)

        def do_GET(self) -> None:
            lines.append(self.requestline)
            authority, path = self.path.removeprefix("http://").split("/", 1)
            upstream = HTTPConnection(authority)
            upstream.request("GET", f"/{path}", headers=dict(self.headers.items()))
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.read())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", lines
    finally:
        server.shutdown()
        server.server_close()


def through(address: str) -> FetchLimits:
    return replace(LIMITS, proxy=address)


def test_http_goes_to_the_checked_address_with_the_name_in_the_host_header() -> None:
    hosts: list[str] = []

    def page(handler: BaseHTTPRequestHandler) -> None:
        hosts.append(handler.headers["Host"])
        body(b"ok")(handler)

    with web({"/x": page}) as address, proxy() as (through_, lines):
        named = address.replace("127.0.0.1", "pictures.invalid")
        assert fetch(f"{named}/x", POLICY, through(through_), loopback).body == b"ok"
        assert lines == [f"GET {address}/x HTTP/1.1"]
    assert hosts == [named.removeprefix("http://")]


def test_https_is_tunnelled_to_the_checked_address_and_its_certificate_checked_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = self_signed(tmp_path, "pictures.invalid")
    with web({"/x": body(b"ok")}, server) as address, proxy() as (through_, lines):
        limits = through(through_)
        named = address.replace("127.0.0.1", "pictures.invalid")
        assert reason(f"{named}/x", POLICY, limits, loopback) == "tls"  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert fetch(f"{named}/x", POLICY, limits, loopback).body == b"ok"
        assert lines[-1] == f"CONNECT 127.0.0.1:{port_of(address)} HTTP/1.1"
        other = replace(STRICT, allow_hosts=("other.invalid",))
        renamed = address.replace("127.0.0.1", "other.invalid")
        assert reason(f"{renamed}/x", other, limits, loopback) == "tls"


def test_a_private_target_is_refused_before_the_proxy_is_asked() -> None:
    pages = {"/go": redirect("http://localhost/x")}
    with web(pages) as address, proxy() as (through_, lines):
        for url in ("http://10.0.0.1/x", "https://[::1]/x", "http://2130706433/"):
            assert reason(url, STRICT, through(through_)) == "private_address"
        assert reason("https://rebinding.invalid/", STRICT, through(through_), loopback) == (
            "private_address"
        )
        assert lines == []
        named = address.replace("127.0.0.1", "pictures.invalid")
        found = reason(f"{named}/go", POLICY, through(through_), rebinding)
        assert found == "private_address"
        assert lines == [f"GET {address}/go HTTP/1.1"]


def rebinding(host: str, port: int) -> tuple[str, ...]:
    return ("127.0.0.1",) if host == "pictures.invalid" else ("10.0.0.1",)


@pytest.mark.parametrize(("status", "transient"), [(403, False), (407, False), (503, True)])
def test_a_proxy_that_refuses_to_connect_is_the_reason(status: int, transient: bool) -> None:
    with proxy(refuse=status) as (through_, _):
        refused = refusal("https://pictures.invalid/x", POLICY, through(through_), loopback)
    assert (refused.reason, refused.transient) == ("proxy", transient)
    assert str(status) in refused.detail


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_is_the_reason(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = through(f"http://127.0.0.1:{unused.getsockname()[1]}")
        refused = refusal(f"{scheme}://pictures.invalid/x", POLICY, gone, loopback)
        assert (refused.reason, refused.transient) == ("proxy", True)
    lost = through("http://proxy.invalid:3128")
    assert reason(f"{scheme}://pictures.invalid/x", POLICY, lost, loopback) == "proxy"


@pytest.mark.parametrize(
    "address",
    ["proxy:3128", "https://proxy:3128", "socks5://proxy:1080", "http://proxy", "http://[::1", ""],
)
def test_what_is_not_the_address_of_an_http_proxy_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="http://host:port"):
        through(address)


@pytest.mark.parametrize("address", ["http://me:secret@proxy:3128", "http://me:se@cret@[::1"])
def test_a_password_of_a_proxy_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        through(address)
    assert "cret" not in str(refused.value)
