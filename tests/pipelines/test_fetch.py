import gzip
import hashlib
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pipelines.data.fetch import BACKOFF_S, backoff_s
from pipelines.data.fetch_limits import FetchLimits
from pipelines.data.responses import check_hash
from pipelines.data.url_policy import Refused
from tests.pipelines.fetching import LIMITS, LOOPBACK, STRICT, fetch, port_of, reason, refusal
from tests.pipelines.web import Page, body, drip, endless, raw, redirect, web
from unclip.config import ConfigError

OK = b"HTTP/1.1 200 OK\r\n"


def test_bodies_that_are_too_large_are_refused_with_or_without_a_content_length() -> None:
    pages = {
        "/promised": body(b"", Content_Length="1001"),
        "/silent": body(b"x" * 1001),
        "/endless": endless(OK + b"\r\n", b"x" * 1000),
        "/chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n"),
        "/fits": body(b"x" * 1000, Content_Length="1000"),
    }
    with web(pages) as address:
        for path in ("/promised", "/silent", "/endless", "/chunks"):
            assert reason(address + path) == "too_large"
        assert len(fetch(f"{address}/fits").body) == 1000


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"Content-Length: 8\r\n\r\nhalf", "incomplete_body"),
        (b"Transfer-Encoding: chunked\r\n\r\nff\r\nhalf", "incomplete_body"),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "incomplete_body"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhalf\r\n0\r\n\r\n", None),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n4\r\nhalf\r\n0\r\n\r\n", None),
        (b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nhalf!", None),
        (b"Content-Length: -1\r\n\r\nhalf", None),
        (b"Content-Length: four\r\n\r\nhalf", None),
        (b"no colon\r\n\r\nhalf", None),
        (b"X: y\r\n" * 10_000 + b"\r\nhalf", None),
        (b"X: " + b"y" * 100_000 + b"\r\n\r\nhalf", None),
    ],
)
def test_lies_about_the_length_and_floods_of_headers_are_refused(
    answer: bytes, expected: str | None
) -> None:
    with web({"/x": raw(OK + answer)}) as address:
        assert reason(f"{address}/x") == (expected or "bad_response")


@pytest.mark.parametrize("part", [b"X: y\r\n", b"y" * 1000])
def test_headers_without_an_end_are_a_bad_response(part: bytes) -> None:
    with web({"/x": endless(OK, part)}) as address:
        assert reason(f"{address}/x") == "bad_response"


def test_a_chunk_that_turns_bad_after_good_ones_is_refused_in_time() -> None:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        time.sleep(0.1)  # so that the client has read the headers
        handler.wfile.write(b"zz\r\nhalf\r\n0\r\n\r\n")

    with web({"/x": page}) as address:
        # aiohttp may notice only by the time limit that such a body does not go on.
        hasty = replace(LIMITS, timeout_s=0.5)
        assert reason(f"{address}/x", limits=hasty) in {
            "bad_response",
            "incomplete_body",
            "timeout",
        }


def test_endless_interim_responses_time_out() -> None:
    with web({"/x": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n")}) as address:
        assert reason(f"{address}/x", limits=replace(LIMITS, timeout_s=0.3)) == "timeout"


def test_a_compressed_body_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(100_000))
    with web({"/x": body(bomb, Content_Encoding="gzip")}) as address:
        assert fetch(f"{address}/x").body == bomb


def test_a_server_that_is_slow_in_any_way_times_out() -> None:
    done = threading.Event()
    with web({"/silent": lambda handler: void(done.wait(60)), "/drip": drip}) as address:
        for path in ("/silent", "/drip"):
            assert reason(address + path, limits=replace(LIMITS, timeout_s=0.3)) == "timeout"
        done.set()


def void(_: object) -> None:
    """Discard a value."""


def test_the_time_limit_holds_for_all_redirects_together() -> None:
    def slow(page: Page) -> Page:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(0.3)
            page(handler)

        return answer

    hops = {f"/{n}": slow(redirect(f"/{n + 1}")) for n in range(4)}
    with web({**hops, "/4": body(b"ok")}) as address:
        assert reason(f"{address}/0", limits=replace(LIMITS, timeout_s=1.0)) == "timeout"


def test_statuses_become_reasons() -> None:
    pages = {"/gone": body(b"", 410), "/busy": body(b"", 503), "/nowhere": body(b"", 302)}
    with web(pages) as address:
        assert reason(f"{address}/gone") == "http_410"
        assert reason(f"{address}/busy") == "http_503"
        assert reason(f"{address}/nowhere") == "http_302"


def test_an_answer_that_is_not_http_is_a_bad_response_and_one_that_is_not_tls_is_tls() -> None:
    with web({"/x": raw(b"nonsense\r\n\r\n")}) as address:
        assert reason(f"{address}/x") == "bad_response"
        assert reason(f"{address}/x".replace("http", "https")) == "tls"


def test_a_closed_port_and_a_server_that_hangs_up_are_connection_failures() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert reason(f"http://127.0.0.1:{unused.getsockname()[1]}/") == "connection"
    with web({"/x": raw(b"")}) as address:
        assert reason(f"{address}/x") == "connection"


@pytest.mark.parametrize("answer", [b"nonsense", b"", OK + b"no colon\r\n", OK + b"X: " * 9999])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_detail_is_short_and_has_nothing_of_the_path(scheme: str, answer: bytes) -> None:
    with web({"/x?token=secret": raw(answer)}) as address:
        detail = refusal(address.replace("http", scheme) + "/x?token=secret").detail
    assert detail.startswith(address.removeprefix("http://"))
    assert len(detail) < 250
    assert not [word for word in ("secret", "/x", " 0x", "\n") if word in detail]


def test_a_name_without_addresses_is_unresolved() -> None:
    assert reason("http://pictures.invalid/x", STRICT) == "unresolved"


def test_a_path_is_sent_as_it_is_spelled_and_what_http_cannot_carry_is_encoded() -> None:
    paths = ["/gr%C3%BCn%20x.jpg?q=%C3%A9", "/a/../b//c%2fd%2Fe?x=1&y=%zz+", "/gr%FCn"]
    with web({path: body(b"ok") for path in paths} | {"/go": redirect("/gr\xfcn")}) as address:
        assert fetch(f"{address}/grün x.jpg?q=é#part").body == b"ok"
        assert fetch(address + paths[1]).body == b"ok"
        assert fetch(f"{address}/go").body == b"ok"


def test_nothing_about_the_worker_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, str] = {}
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    def page(handler: BaseHTTPRequestHandler) -> None:
        sent.update(handler.headers.items())
        body(b"ok")(handler)

    pages = {"/go": body(b"", 302, Location="/x", Set_Cookie="a=b"), "/x": page}
    with web(pages) as address:
        assert fetch(f"{address}/go").body == b"ok"
    assert set(sent) == {"Host", "User-Agent", "Accept", "Accept-Encoding"}
    assert sent["Host"] == f"127.0.0.1:{port_of(address)}"
    assert sent["Accept-Encoding"] == "identity"


def test_line_breaks_in_a_url_cannot_add_headers() -> None:
    seen: list[str | None] = []

    def page(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["X-Injected"])
        body(b"ok")(handler)

    with web({"/xX-Injected:%20yes": page}) as address:
        fetch(f"{address}/x\r\nX-Injected: yes")
    assert seen == [None]


def test_only_transient_failures_are_retried() -> None:
    calls: list[str] = []

    def page(handler: BaseHTTPRequestHandler) -> None:
        calls.append(handler.path)
        busy = handler.path == "/busy" and calls.count("/busy") == 1
        body(b"ok", 503 if busy else 200 if handler.path == "/busy" else 404)(handler)

    patient = replace(LIMITS, retries=2)
    with web({"/busy": page, "/gone": page}) as address:
        fetched = fetch(f"{address}/busy", limits=patient)
        assert (fetched.body, fetched.attempts) == (b"ok", 2)
        refused = refusal(f"{address}/gone", limits=patient)
        assert (refused.reason, refused.attempts) == ("http_404", 1)
    assert calls == ["/busy", "/busy", "/gone"]


def test_the_last_refusal_says_how_often_the_row_was_tried() -> None:
    calls: list[str] = []

    def busy(handler: BaseHTTPRequestHandler) -> None:
        calls.append(handler.path)
        body(b"", 500)(handler)

    with web({"/x": busy}) as address:
        refused = refusal(f"{address}/x", limits=replace(LIMITS, retries=1))
    assert (refused.reason, refused.attempts, len(calls)) == ("http_500", 2, 2)


def test_waits_between_retries_grow() -> None:
    for attempt in range(1, 6):
        shortest = BACKOFF_S * 2 ** (attempt - 1)
        assert shortest <= backoff_s(attempt) <= 2 * shortest


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_a_hash_of_any_listed_length_is_checked(algorithm: str) -> None:
    digest = hashlib.new(algorithm, b"picture").hexdigest()
    check_hash(b"picture", digest)
    check_hash(b"picture", f" {digest.upper()}\n")
    with pytest.raises(Refused, match="hash_mismatch"):
        check_hash(b"another", digest)


@pytest.mark.parametrize("expected", ["", "abc", "g" * 32, "0" * 33])
def test_what_is_no_hash_is_a_bad_hash(expected: str) -> None:
    with pytest.raises(Refused, match="bad_hash"):
        check_hash(b"picture", expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connections", 0),
        ("connections_per_host", -1),
        ("retries", -1),
        ("timeout_s", 0.0),
        ("max_retry_after_s", -0.5),
    ],
)
def test_limits_without_meaning_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        FetchLimits(**{**vars(LIMITS), name: value})


def test_the_largest_body_is_the_policys() -> None:
    with web({"/x": body(b"x" * 1001)}) as address:
        assert len(fetch(f"{address}/x", replace(LOOPBACK, max_bytes=1001)).body) == 1001
