"""Short ways to fetch from the servers of tests."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipelines.data.fetch import Fetcher
from pipelines.data.fetch_limits import FetchLimits
from pipelines.data.responses import Fetched
from pipelines.data.url_policy import Refused, UrlPolicy, resolve

STRICT = UrlPolicy(max_bytes=1000)
LOOPBACK = replace(STRICT, allow_hosts=("127.0.0.1", "127.0.0.2"))
LIMITS = FetchLimits(
    connections=8, connections_per_host=4, retries=0, timeout_s=20.0, max_retry_after_s=60.0
)


def fetch(
    url: str,
    policy: UrlPolicy = LOOPBACK,
    limits: FetchLimits = LIMITS,
    resolve: Callable[[str, int], tuple[str, ...]] = resolve,
) -> Fetched:
    """Fetch one URL with a fetcher of its own."""

    async def main() -> Fetched:
        async with Fetcher(policy, limits, resolve=resolve) as fetcher:
            return await fetcher.fetch(url)

    return asyncio.run(main())


def fetch_all(
    urls: list[str], policy: UrlPolicy = LOOPBACK, limits: FetchLimits = LIMITS
) -> list[Fetched | BaseException]:
    """Fetch all at once with one fetcher; a refusal takes the place of its response."""

    async def main() -> list[Fetched | BaseException]:
        async with Fetcher(policy, limits) as fetcher:
            return await asyncio.gather(*map(fetcher.fetch, urls), return_exceptions=True)

    return asyncio.run(main())


def refusal(
    url: str,
    policy: UrlPolicy = LOOPBACK,
    limits: FetchLimits = LIMITS,
    resolve: Callable[[str, int], tuple[str, ...]] = resolve,
) -> Refused:
    """The refusal of a URL."""
    with pytest.raises(Refused) as refused:
        fetch(url, policy, limits, resolve)
    return refused.value


def reason(
    url: str,
    policy: UrlPolicy = LOOPBACK,
    limits: FetchLimits = LIMITS,
    resolve: Callable[[str, int], tuple[str, ...]] = resolve,
) -> str:
    """The reason for which a URL is refused."""
    return refusal(url, policy, limits, resolve).reason


def port_of(address: str) -> str:
    """The port of a server's address."""
    return address.rpartition(":")[2]
