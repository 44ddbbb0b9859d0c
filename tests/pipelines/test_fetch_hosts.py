"""Connections, limits and pauses: what rows of one host mean for each other and for other hosts."""

import asyncio
import gc
import threading
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler

import pytest

from pipelines.data.fetch import Fetcher
from pipelines.data.hosts import retry_after_s
from pipelines.data.responses import Fetched
from pipelines.data.url_policy import Refused
from tests.pipelines.fetching import LIMITS, LOOPBACK, STRICT, fetch, fetch_all, port_of, refusal
from tests.pipelines.web import Page, body, kept_alive, web


def bodies(answers: list[Fetched | BaseException]) -> list[bytes]:
    assert not [answer for answer in answers if not isinstance(answer, Fetched)]
    return [answer.body for answer in answers if isinstance(answer, Fetched)]


class Crowd:
    """A page that counts how many requests it answers at once, and waits until there are enough."""

    def __init__(self, enough: int) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.gate = threading.Barrier(enough)

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.gate.wait(30)
        time.sleep(0.05)  # so that requests above the limit, if any, are counted too
        with self.lock:
            self.now -= 1
        body(b"ok")(handler)


def test_rows_of_one_host_share_their_connections() -> None:
    sockets: set[int] = set()

    def page(handler: BaseHTTPRequestHandler) -> None:
        sockets.add(handler.client_address[1])
        kept_alive(b"ok")(handler)

    with web({"/x": page}, keep_alive=True) as address:
        limits = replace(LIMITS, connections_per_host=2)
        assert bodies(fetch_all([f"{address}/x"] * 30, limits=limits)) == [b"ok"] * 30
    assert 1 <= len(sockets) <= 2


def test_a_row_that_is_refused_does_not_spoil_the_connection_of_the_next() -> None:
    pages = {
        "/ok": kept_alive(b"ok"),
        "/gone": kept_alive(b"not here", 404),
        "/big": kept_alive(b"x" * 5000),
    }
    with web(pages, keep_alive=True) as address:
        urls = [f"{address}/{name}" for name in ("ok", "gone", "ok", "big", "ok")] * 5
        answers = fetch_all(urls, limits=replace(LIMITS, connections_per_host=1))
    found = [a.body if isinstance(a, Fetched) else getattr(a, "reason", a) for a in answers]
    assert found == [b"ok", "http_404", b"ok", "too_large", b"ok"] * 5


def test_a_host_gets_as_many_connections_as_it_may_have_and_no_more() -> None:
    crowd = Crowd(enough=3)
    with web({"/x": crowd}) as address:
        limits = replace(LIMITS, connections=8, connections_per_host=3)
        assert len(bodies(fetch_all([f"{address}/x"] * 12, limits=limits))) == 12
    assert crowd.most == 3


def test_all_hosts_together_get_as_many_connections_as_a_worker_may_have() -> None:
    crowd = Crowd(enough=4)
    with web({"/x": crowd}) as one, web({"/x": crowd}, host="127.0.0.2") as two:
        limits = replace(LIMITS, connections=4, connections_per_host=4)
        assert len(bodies(fetch_all([f"{one}/x", f"{two}/x"] * 10, limits=limits))) == 20
    assert crowd.most == 4


def test_waiting_for_a_turn_takes_none_of_the_time_for_an_answer() -> None:
    def page(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.25)
        body(b"ok")(handler)

    with web({"/x": page}) as address:
        # 12 rows one after the other take 3 s at least.
        limits = replace(LIMITS, connections_per_host=1, timeout_s=2.5)
        assert len(bodies(fetch_all([f"{address}/x"] * 12, limits=limits))) == 12


class Busy:
    """A page that sends all requests away for some time, and counts those that come too early."""

    def __init__(self, retry_after: str, seconds: float) -> None:
        self.retry_after, self.seconds = retry_after, seconds
        self.sent_away = self.early = 0
        self.open_at = float("inf")
        self.lock = threading.Lock()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        with self.lock:
            if self.open_at == float("inf"):
                self.sent_away += 1
                self.open_at = time.monotonic() + self.seconds
                return body(b"", 429, Retry_After=self.retry_after)(handler)
            self.early += time.monotonic() < self.open_at
        return body(b"ok")(handler)


def test_the_whole_host_waits_for_the_seconds_that_it_asks_for() -> None:
    busy = Busy("1", 1.0)
    with web({"/x": busy}) as address:
        limits = replace(LIMITS, connections_per_host=1, retries=1)
        answers = fetch_all([f"{address}/x"] * 4, limits=limits)
    assert bodies(answers) == [b"ok"] * 4
    assert (busy.sent_away, busy.early) == (1, 0)
    assert sorted(a.attempts for a in answers if isinstance(a, Fetched)) == [1, 1, 1, 2]


def test_the_whole_host_waits_until_the_date_that_it_asks_for() -> None:
    # Dates have no fractions of a second: of the 2 s, at least 1 remains.
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    busy = Busy(date, 0.5)
    with web({"/x": busy}) as address:
        limits = replace(LIMITS, connections_per_host=1, retries=1)
        assert bodies(fetch_all([f"{address}/x"] * 3, limits=limits)) == [b"ok"] * 3
    assert (busy.sent_away, busy.early) == (1, 0)


@pytest.mark.parametrize("retries", [0, 3])
def test_a_host_that_asks_for_too_long_is_asked_once(retries: int) -> None:
    hits: Counter[str] = Counter()

    def page(handler: BaseHTTPRequestHandler) -> None:
        hits[handler.path] += 1
        body(b"", 503, Retry_After="3600")(handler)

    with web({"/x": page}) as address:
        limits = replace(LIMITS, connections_per_host=1, retries=retries)
        answers = fetch_all([f"{address}/x"] * 5, limits=limits)
    refusals = [a for a in answers if isinstance(a, Refused)]
    assert [(r.reason, r.transient, r.attempts) for r in refusals] == [
        ("rate_limited", True, 1)
    ] * 5
    assert hits == {"/x": 1}


def test_a_host_that_goes_on_asking_uses_up_the_patience_of_its_rows() -> None:
    with web({"/x": body(b"", 429, Retry_After="1")}) as address:
        patient = replace(LIMITS, retries=5, max_retry_after_s=2.5)
        refused = refusal(f"{address}/x", limits=patient)
    assert (refused.reason, refused.attempts) == ("rate_limited", 4)


@pytest.mark.parametrize("status", [404, 500])
def test_other_statuses_do_not_pause_a_host(status: int) -> None:
    pages = {"/bad": body(b"", status, Retry_After="3600"), "/ok": body(b"ok")}
    with web(pages) as address:
        limits = replace(LIMITS, connections_per_host=1)
        refused, good = fetch_all([f"{address}/bad", f"{address}/ok"], limits=limits)
    assert isinstance(refused, Refused)
    assert refused.reason == f"http_{status}"
    assert bodies([good]) == [b"ok"]


def stuck(handler: BaseHTTPRequestHandler) -> None:
    with suppress(ConnectionError):
        handler.rfile.read()  # until the client hangs up


@pytest.mark.parametrize(
    ("page", "connections"), [(body(b"", 429, Retry_After="3600"), 1), (stuck, 2)]
)
def test_a_host_that_pauses_or_never_answers_does_not_hold_up_another(
    page: Page, connections: int
) -> None:
    async def main(bad: str, good: str) -> list[Fetched]:
        limits = replace(
            LIMITS,
            connections=connections,
            connections_per_host=1,
            retries=1,
            max_retry_after_s=7200.0,
        )
        async with Fetcher(LOOPBACK, limits) as fetcher:
            waiting = [asyncio.create_task(fetcher.fetch(f"{bad}/x")) for _ in range(20)]
            answers = await asyncio.gather(*[fetcher.fetch(f"{good}/x") for _ in range(20)])
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return answers

    with web({"/x": page}) as bad, web({"/x": body(b"ok")}, host="127.0.0.2") as good:
        assert bodies([*asyncio.run(main(bad, good))]) == [b"ok"] * 20


def test_names_are_looked_up_once_and_beside_the_event_loop() -> None:
    threads: list[str] = []

    def resolve(host: str, port: int) -> tuple[str, ...]:
        threads.append(threading.current_thread().name)
        return ("127.0.0.1",)

    async def main(url: str) -> None:
        policy = replace(STRICT, allow_hosts=("pictures.invalid",))
        async with Fetcher(policy, LIMITS, resolve=resolve) as fetcher:
            for _ in range(3):
                await fetcher.fetch(url)

    with web({"/x": body(b"ok")}) as address:
        asyncio.run(main(f"http://pictures.invalid:{port_of(address)}/x"))
    assert len(threads) == 1
    assert threads[0] != threading.main_thread().name


def test_a_fetcher_leaves_no_connection_open() -> None:
    with (
        web({"/x": kept_alive(b"ok")}, keep_alive=True) as address,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        assert fetch(f"{address}/x").body == b"ok"
        gc.collect()
    assert not [each for each in caught if issubclass(each.category, ResourceWarning)]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("²", None),
        ("1.5", None),
        ("Wed, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        (" 120 ", 120.0),
        ("9" * 5000, float("inf")),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
    ],
)
def test_retry_after_is_a_number_a_date_or_nothing(
    header: str | None, expected: float | None
) -> None:
    assert retry_after_s(header) == expected


def test_retry_after_counts_a_future_date_from_now() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    seconds = retry_after_s(date)
    assert seconds is not None
    assert 3000 < seconds <= 3600
