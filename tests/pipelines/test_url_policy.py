import socket
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import fetch as fetch_module
from pipelines.data import url_policy
from pipelines.data.fetch import fetch, fetch_with_retries
from pipelines.data.url_policy import Refused, UrlPolicy, check_url, is_public
from tests.pipelines.web import body, drip, redirect, web
from unclip.config import ConfigError

STRICT = UrlPolicy(max_bytes=1000, timeout_s=1.0)
LOOPBACK = replace(STRICT, allow_hosts=("127.0.0.1",))


def reason(url: str, policy: UrlPolicy) -> str:
    with pytest.raises(Refused) as refused:
        fetch(url, policy)
    return refused.value.reason


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("file:///etc/hostname", "scheme"),
        ("ftp://example.org/x.jpg", "scheme"),
        ("gopher://127.0.0.1/", "scheme"),
        ("data:image/png;base64,AAAA", "scheme"),
        ("/etc/hostname", "scheme"),
        ("http:///x.jpg", "bad_url"),
        ("http://[::1", "bad_url"),
        ("http://1.2.3.4:99999/", "bad_url"),
        ("http://user:word@93.184.216.34/", "credentials"),
        ("http://127.0.0.1/x.jpg", "private_address"),
        ("http://localhost/x.jpg", "private_address"),
        ("http://10.0.0.1/x.jpg", "private_address"),
        ("http://169.254.169.254/latest/meta-data", "private_address"),
        ("http://0.0.0.0/", "private_address"),
        ("http://224.0.0.1/", "private_address"),
        ("http://2130706433/", "private_address"),
        ("http://0x7f000001/", "private_address"),
        ("http://127.1/", "private_address"),
        ("http://[::1]/", "private_address"),
        ("http://[::ffff:127.0.0.1]/", "private_address"),
        ("http://[::ffff:a00:1]/", "private_address"),
        ("http://[2002:7f00:1::]/", "private_address"),
        ("http://[64:ff9b::a00:1]/", "private_address"),
        ("http://[fe80::1]/", "private_address"),
        ("http://[fd00::1]/", "private_address"),
        ("http://[ff02::1]/", "private_address"),
    ],
)
def test_addresses_that_a_list_must_not_reach_are_refused(url, expected):
    assert reason(url, STRICT) == expected


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_as_itself(address):
    mapped = ip_address(f"::ffff:{address}")
    nat64 = ip_address((0x64FF9B << 96) + int(address))
    assert is_public(mapped) == is_public(nat64) == is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses_are_allowed(address):
    assert is_public(ip_address(address))


def test_one_private_address_among_public_ones_refuses_the_host(monkeypatch):
    monkeypatch.setattr(url_policy, "resolve", lambda host, port: ("1.1.1.1", "10.0.0.1"))
    with pytest.raises(Refused, match="private_address"):
        check_url("http://example.org/", STRICT)


def test_an_allowed_host_is_matched_as_the_url_spells_it():
    with web({"/x": body(b"ok")}) as address:
        port = address.rsplit(":", 1)[1]
        for allowed in ("127.0.0.1", f"127.0.0.1:{port}"):
            policy = replace(STRICT, allow_hosts=(allowed,))
            assert fetch(f"{address}/x", policy).body == b"ok"
        assert reason(f"http://localhost:{port}/x", LOOPBACK) == "private_address"
        other_port = replace(STRICT, allow_hosts=("127.0.0.1:1",))
        assert reason(f"{address}/x", other_port) == "private_address"


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    answers = [("127.0.0.1",), ("192.0.2.1",)]  # what the resolver says first and later
    monkeypatch.setattr(url_policy, "resolve", lambda host, port: answers.pop(0))
    with web({"/x": body(b"ok")}) as address:
        port = address.rsplit(":", 1)[1]
        policy = replace(STRICT, allow_hosts=("rebinding.invalid",))
        assert fetch(f"http://rebinding.invalid:{port}/x", policy).body == b"ok"
    assert len(answers) == 1


def test_every_redirect_is_checked_again():
    pages = {
        "/file": redirect("file:///etc/hostname"),
        "/private": redirect("http://10.0.0.1/x"),
        "/loopback": redirect("http://localhost/x"),
        "/loop": redirect("/loop"),
        "/good": redirect("/end"),
        "/end": body(b"here"),
    }
    with web(pages) as address:
        assert reason(f"{address}/file", LOOPBACK) == "scheme"
        assert reason(f"{address}/private", LOOPBACK) == "private_address"
        assert reason(f"{address}/loopback", LOOPBACK) == "private_address"
        assert reason(f"{address}/loop", LOOPBACK) == "too_many_redirects"
        assert fetch(f"{address}/good", LOOPBACK).body == b"here"
        assert reason(f"{address}/good", replace(LOOPBACK, max_redirects=0)) == "too_many_redirects"


def test_bodies_that_are_too_large_are_refused_with_or_without_a_content_length():
    pages = {
        "/promised": body(b"", Content_Length="1001"),
        "/silent": body(b"x" * 1001),
        "/fits": body(b"x" * 1000, Content_Length="1000"),
    }
    with web(pages) as address:
        assert reason(f"{address}/promised", LOOPBACK) == "too_large"
        assert reason(f"{address}/silent", LOOPBACK) == "too_large"
        assert len(fetch(f"{address}/fits", LOOPBACK).body) == 1000


def test_a_body_shorter_than_promised_is_incomplete():
    with web({"/x": body(b"half", Content_Length="8")}) as address:
        assert reason(f"{address}/x", LOOPBACK) == "incomplete_body"


@pytest.mark.parametrize("page", [lambda handler: time.sleep(2), drip])
def test_a_server_that_is_slow_in_any_way_times_out_on_time(page):
    policy = replace(LOOPBACK, timeout_s=0.3)
    with web({"/x": page}) as address:
        began = time.monotonic()
        assert reason(f"{address}/x", policy) == "timeout"
        assert time.monotonic() - began < 1.0


def test_statuses_become_reasons():
    with web({"/gone": body(b"", 410), "/busy": body(b"", 503)}) as address:
        assert reason(f"{address}/gone", LOOPBACK) == "http_410"
        assert reason(f"{address}/busy", LOOPBACK) == "http_503"


def test_an_answer_that_is_not_http_is_a_bad_response_and_one_that_is_not_tls_is_tls():
    with web({"/x": lambda handler: handler.wfile.write(b"nonsense\r\n\r\n")}) as address:
        assert reason(f"{address}/x", LOOPBACK) == "bad_response"
        assert reason(f"{address}/x".replace("http", "https"), LOOPBACK) == "tls"


def test_a_closed_port_is_a_connection_failure():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert reason(f"http://127.0.0.1:{unused.getsockname()[1]}/", LOOPBACK) == "connection"


def test_spaces_and_non_ascii_letters_in_a_path_are_sent_encoded():
    with web({"/gr%C3%BCn%20x.jpg?q=%C3%A9": body(b"ok")}) as address:
        assert fetch(f"{address}/grün x.jpg?q=é", LOOPBACK).body == b"ok"


def test_line_breaks_in_a_url_cannot_add_headers():
    seen: list[str | None] = []

    def page(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["X-Injected"])
        body(b"ok")(handler)

    with web({"/xX-Injected:%20yes": page}) as address:
        fetch(f"{address}/x\r\nX-Injected: yes", LOOPBACK)
    assert seen == [None]


def test_only_transient_failures_are_retried():
    calls: list[str] = []

    def busy_once(handler: BaseHTTPRequestHandler) -> None:
        calls.append(handler.path)
        body(b"ok", 503 if len(calls) == 1 else 200)(handler)

    def gone(handler: BaseHTTPRequestHandler) -> None:
        calls.append(handler.path)
        body(b"", 404)(handler)

    slept: list[float] = []
    with web({"/busy": busy_once, "/gone": gone}) as address:
        fetched = fetch_with_retries(f"{address}/busy", LOOPBACK, retries=2, sleep=slept.append)
        assert fetched.body == b"ok"
        assert calls == ["/busy"] * 2
        assert len(slept) == 1
        with pytest.raises(Refused, match="http_404"):
            fetch_with_retries(f"{address}/gone", LOOPBACK, retries=2, sleep=slept.append)
    assert calls.count("/gone") == 1


def test_waits_between_retries_grow_and_end_with_the_last_attempt(monkeypatch):
    def refuse(url: str, policy: UrlPolicy) -> None:
        raise Refused("timeout", url, transient=True)

    monkeypatch.setattr(fetch_module, "fetch", refuse)
    slept: list[float] = []
    with pytest.raises(Refused, match="timeout"):
        fetch_with_retries("http://x/", STRICT, retries=3, backoff_s=1.0, sleep=slept.append)
    assert len(slept) == 3
    assert all(2**n <= wait <= 2 ** (n + 1) for n, wait in enumerate(slept))


def test_a_policy_for_other_schemes_or_without_limits_is_refused():
    with pytest.raises(ConfigError, match="allowed_schemes"):
        UrlPolicy(max_bytes=1, timeout_s=1.0, allowed_schemes=("file",))
    with pytest.raises(ConfigError, match="max_bytes=0"):
        UrlPolicy(max_bytes=0, timeout_s=1.0)
