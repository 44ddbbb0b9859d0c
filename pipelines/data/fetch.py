"""Fetch URLs under a `UrlPolicy`, many at a time.

aiohttp sees only addresses that were checked: they replace the host name in the URL, and the name
goes into the Host header and the TLS handshake. It therefore resolves nothing but its proxy.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import uniform
from typing import Self

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientHttpProxyError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    ServerTimeoutError,
    TCPConnector,
)
from yarl import URL

from pipelines.data.fetch_limits import FetchLimits
from pipelines.data.hosts import Addresses, Hosts, Resolver, retry_after_s
from pipelines.data.responses import TRANSIENT_STATUSES, Fetched, as_refusal, read_body
from pipelines.data.url_policy import (
    Refused,
    Target,
    UrlPolicy,
    check_addresses,
    check_url,
    join_url,
    resolve,
)

log = logging.getLogger(__name__)

HEADERS = {
    "User-Agent": "unclip/0.1 (image-text pairs; honours X-Robots-Tag)",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PAUSE_STATUSES = frozenset({429, 503})  # those with which a Retry-After is honoured
MAX_HEADER_BYTES = 65_536  # of one header
# Idle connections count towards no limit, so they close soon after a host's last row.
KEEP_ALIVE_S = 2.0
BACKOFF_S = 0.5


class Paused(Refused):
    """The host said when to come back, so the row needs no back-off of its own."""


@dataclass
class Patience:
    """What is left of a row's time."""

    answer_s: float  # of the attempt, for answers
    pauses_s: float  # of the row, for hosts that pause


class Fetcher:
    """Fetches the rows of a list; an async context manager. A row is one call of `fetch`.

    A row that waits for its turn holds a coroutine and nothing else, so thousands may wait. At
    most `connections` bodies of at most `max_bytes` are being read; finished ones are the caller's.
    A caller with too many of them clears the event `room`: no request begins until it is set again.
    """

    def __init__(
        self,
        policy: UrlPolicy,
        limits: FetchLimits,
        *,
        resolve: Callable[[str, int], Addresses] = resolve,
    ) -> None:
        """`resolve` (host, port) runs in threads. What it returns is checked."""
        self.policy = policy
        self.limits = limits
        self.hosts = Hosts(limits.connections_per_host)
        self.slots = asyncio.Semaphore(limits.connections)
        self.room = asyncio.Event()
        self.room.set()
        self.resolver = Resolver(resolve, connections=limits.connections)

    async def __aenter__(self) -> Self:
        """Open the session: no cookies, no environment proxies, bodies as they are sent."""
        context = ssl.create_default_context()
        self.session = ClientSession(
            # limit=0: the semaphores limit, so that no time-out includes the wait for a turn.
            connector=TCPConnector(limit=0, ssl=context, keepalive_timeout=KEEP_ALIVE_S),
            headers=HEADERS,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self.session.close()
        self.resolver.close()

    async def fetch(self, url: str) -> Fetched:
        """The image behind a URL. Follows redirects, and retries transient failures.

        Raises `Refused`.
        """
        patience = Patience(0.0, self.limits.max_retry_after_s)
        for attempt in range(1, self.limits.retries + 2):
            patience.answer_s = self.limits.timeout_s
            try:
                return replace(await self.follow(url, patience), attempts=attempt)
            except Refused as refusal:
                refusal.attempts = attempt
                is_last = attempt > self.limits.retries or refusal.reason == "rate_limited"
                if is_last or not refusal.transient:
                    raise
                log.debug("attempt %d failed: %s", attempt, refusal)
                wait_s = 0.0 if isinstance(refusal, Paused) else backoff_s(attempt)
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    async def follow(self, url: str, patience: Patience) -> Fetched:
        """One attempt: the URL, and where it redirects to, each checked by the policy."""
        for _ in range(self.policy.max_redirects + 1):
            target = check_url(url, self.policy)
            answer = await self.in_turn(target, patience)
            if isinstance(answer, Fetched):
                return answer
            url = join_url(url, answer)
        raise Refused("too_many_redirects", f"more than {self.policy.max_redirects}")

    async def in_turn(self, target: Target, patience: Patience) -> Fetched | str:
        """Make a request once the host does not pause and a connection is free."""
        while True:
            await self.wait_out_pause(target.name, patience)
            async with self.hosts.slots_of(target.name), self.slots:
                await self.room.wait()
                # The host may have asked for a pause while this row waited for its turn.
                if not self.hosts.pause_left_s(target.name):
                    return await self.request(target, patience)

    async def wait_out_pause(self, host: str, patience: Patience) -> None:
        """Wait while the host pauses. Raises `Refused` if the row has not that much patience."""
        while left_s := self.hosts.pause_left_s(host):
            if left_s > patience.pauses_s:
                raise rate_limited(host, left_s, self.limits)
            patience.pauses_s -= left_s
            await asyncio.sleep(left_s)

    async def request(self, target: Target, patience: Patience) -> Fetched | str:
        """Resolve, check, and ask. Returns the response, or the URL that it redirects to."""
        began = time.monotonic()
        try:
            # Around everything: a server that sends a byte now and then is never idle.
            async with asyncio.timeout(patience.answer_s):
                addresses = await self.resolver(target.ascii_host, target.port)
                check_addresses(target, addresses, self.policy)
                return await self.first_answer(target, addresses, patience.answer_s)
        except (ClientError, OSError, ValueError) as error:
            raise as_refusal(error, target) from error
        finally:
            patience.answer_s -= time.monotonic() - began

    async def first_answer(
        self, target: Target, addresses: Sequence[str], within_s: float
    ) -> Fetched | str:
        """Ask the addresses in the resolver's order, until one can be connected to."""
        failure: Exception = ConnectionError("no address")
        for address in addresses:
            try:
                # An address that swallows packets must leave time for the others.
                return await self.ask(target, address, connect_s=within_s / len(addresses))
            except (ClientConnectorError, ClientHttpProxyError, ServerTimeoutError) as error:
                failure = error
        raise failure

    async def ask(self, target: Target, address: str, *, connect_s: float) -> Fetched | str:
        """One request to one checked address."""
        async with self.session.get(
            URL(target.url_at(address), encoded=True),
            headers={"Host": target.authority},
            server_hostname=target.name,
            allow_redirects=False,
            proxy=self.limits.proxy,
            timeout=ClientTimeout(total=None, sock_connect=connect_s),
        ) as response:
            location = response.headers.get("Location")
            if response.status in REDIRECTS and location:
                return location
            if response.status != 200:
                raise self.refusal_of(response, target)
            return Fetched(await read_body(response, self.policy.max_bytes), response.headers)

    def refusal_of(self, response: ClientResponse, target: Target) -> Refused:
        """The refusal for a status. Lets the host pause if the response asks for it."""
        status = response.status
        after_s = retry_after_s(response.headers.get("Retry-After"))
        if status in PAUSE_STATUSES and after_s is not None:
            self.hosts.pause(target.name, after_s)
            if after_s > self.limits.max_retry_after_s:
                return rate_limited(target.name, after_s, self.limits)
            return Paused(f"http_{status}", target.host, transient=True)
        return Refused(f"http_{status}", target.host, transient=status in TRANSIENT_STATUSES)


def rate_limited(host: str, seconds: float, limits: FetchLimits) -> Refused:
    """The refusal of a row that would have to wait too long for its host."""
    allowed = f"max_retry_after_s={limits.max_retry_after_s:g} for a row"
    return Refused("rate_limited", f"{host} pauses for {seconds:.0f} s; {allowed}", transient=True)


def backoff_s(attempt: int) -> float:
    """Seconds to wait after a failed attempt, counted from 1: random in [1, 2] · 0.5 · 2^(n-1).

    Random, so that the rows of one host do not all return at once.
    """
    return BACKOFF_S * 2.0 ** (attempt - 1) * uniform(1, 2)
