from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.url_policy import Refused, UrlPolicy, check_addresses, check_url, is_public
from tests.pipelines.fetching import LIMITS, LOOPBACK, STRICT, fetch, port_of, reason, refusal
from tests.pipelines.web import Page, body, kept_alive, redirect, web
from unclip.config import ConfigError


def in_turn(*answers: tuple[str, ...]) -> tuple[Callable[[str, int], tuple[str, ...]], list[str]]:
    """A resolver that answers differently each time, and the list of the hosts it was asked for."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> tuple[str, ...]:
        asked.append(host)
        return answers[len(asked) - 1]

    return resolve, asked


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
        ("http://" + "ü" * 100 + ".org/", "bad_url"),
        ("http://user:word@93.184.216.34/", "credentials"),
        ("http://127.0.0.1/x.jpg", "private_address"),
        ("http://localhost/x.jpg", "private_address"),
        ("http://10.0.0.1/x.jpg", "private_address"),
        ("http://169.254.169.254/latest/meta-data", "private_address"),
        ("http://0.0.0.0/", "private_address"),
        ("http://224.0.0.1/", "private_address"),
        ("http://2130706433/", "private_address"),
        ("http://0x7f000001/", "private_address"),
        ("http://0177.0.0.1/", "private_address"),
        ("http://127.1/", "private_address"),
        ("http://１２７.0.0.1/", "private_address"),
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
def test_addresses_that_a_list_must_not_reach_are_refused(url: str, expected: str) -> None:
    assert reason(url, STRICT) == expected


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_as_itself(address):
    mapped = ip_address(f"::ffff:{address}")
    nat64 = ip_address((0x64FF9B << 96) + int(address))
    assert is_public(mapped) == is_public(nat64) == is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(ip_address(address))


def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    target = check_url("http://example.org/", STRICT)
    check_addresses(target, ["1.1.1.1", "1.0.0.1"], STRICT)
    with pytest.raises(Refused, match="private_address"):
        check_addresses(target, ["1.1.1.1", "10.0.0.1"], STRICT)


def test_no_detail_repeats_a_password() -> None:
    for url in ("ftp://me:secret@h/", "http://me:secret@h/", "http://me:secret@[::1/", "secret:"):
        assert "me:secret" not in refusal(url, STRICT).detail


def test_an_allowed_host_is_matched_as_the_url_spells_it() -> None:
    with web({"/x": body(b"ok")}) as address:
        port = port_of(address)
        for allowed in ("127.0.0.1", f"127.0.0.1:{port}"):
            policy = replace(STRICT, allow_hosts=(allowed,))
            assert fetch(f"{address}/x", policy).body == b"ok"
        assert reason(f"http://localhost:{port}/x", LOOPBACK) == "private_address"
        other_port = replace(STRICT, allow_hosts=("127.0.0.1:1",))
        assert reason(f"{address}/x", other_port) == "private_address"


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    resolve, asked = in_turn(("127.0.0.1",), ("192.0.2.1",))
    policy = replace(STRICT, allow_hosts=("rebinding.invalid",))
    with web({"/x": body(b"ok")}) as address:
        url = f"http://rebinding.invalid:{port_of(address)}/x"
        assert fetch(url, policy, resolve=resolve).body == b"ok"
    assert asked == ["rebinding.invalid"]


def test_a_name_that_turns_private_between_two_redirects_reaches_nothing() -> None:
    hits: list[str] = []
    resolve, asked = in_turn(("127.0.0.1",), ("127.0.0.1",))
    pages = {"/go": redirect("http://other.invalid/x"), "/x": lambda handler: hits.append("x")}
    policy = replace(STRICT, allow_hosts=("rebinding.invalid",))
    with web(pages) as address:
        url = f"http://rebinding.invalid:{port_of(address)}/go"
        assert reason(url, policy, resolve=resolve) == "private_address"
    assert asked == ["rebinding.invalid", "other.invalid"]
    assert hits == []


def test_a_kept_connection_of_an_allowed_host_serves_no_other_name_of_its_address() -> None:
    pages: dict[str, Page] = {}
    resolve, _ = in_turn(("127.0.0.1",), ("127.0.0.1",))
    policy = replace(STRICT, allow_hosts=("first.invalid",))
    with web(pages, keep_alive=True) as address:
        port = port_of(address)
        pages["/go"] = kept_alive(b"", 302, Location=f"http://other.invalid:{port}/x")
        url = f"http://first.invalid:{port}/go"
        assert reason(url, policy, resolve=resolve) == "private_address"


def test_the_next_address_is_tried_when_one_cannot_be_connected_to() -> None:
    resolve, _ = in_turn(("127.0.0.9", "127.0.0.1"))
    policy = replace(STRICT, allow_hosts=("two.invalid",))
    with web({"/x": body(b"ok")}) as address:
        assert fetch(f"http://two.invalid:{port_of(address)}/x", policy, LIMITS, resolve).body


def test_every_redirect_is_checked_again() -> None:
    pages = {
        "/file": redirect("file:///etc/hostname"),
        "/private": redirect("http://10.0.0.1/x"),
        "/loopback": redirect("http://localhost/x"),
        "/no-url": redirect("http://[::1"),
        "/loop": redirect("/loop"),
        "/good": redirect("/end"),
        "/end": body(b"here"),
    }
    with web(pages) as address:
        assert reason(f"{address}/file") == "scheme"
        assert reason(f"{address}/private") == "private_address"
        assert reason(f"{address}/loopback") == "private_address"
        assert reason(f"{address}/no-url") == "bad_url"
        assert reason(f"{address}/loop") == "too_many_redirects"
        assert fetch(f"{address}/good").body == b"here"
        assert reason(f"{address}/good", replace(LOOPBACK, max_redirects=0)) == "too_many_redirects"


def test_a_policy_for_other_schemes_or_without_limits_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed_schemes"):
        UrlPolicy(max_bytes=1, allowed_schemes=("file",))
    with pytest.raises(ConfigError, match="max_bytes=0"):
        UrlPolicy(max_bytes=0)
