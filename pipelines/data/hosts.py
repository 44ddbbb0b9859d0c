"""What a fetcher knows of each host: its addresses, its free connections, and until when it pauses.

A pause is what a server asks for with Retry-After. It applies to every row of the host.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from weakref import WeakValueDictionary

Addresses = tuple[str, ...]

RESOLVER_THREADS = 32  # at most; names that do not answer block a thread for seconds
ADDRESSES_GOOD_FOR_S = 60.0
MAX_KNOWN_HOSTS = 10_000


class Resolver:
    """Resolves host names in threads of its own, and remembers the addresses for a minute.

    A list often names one host thousands of times, and every look-up costs several packets.
    """

    def __init__(self, resolve: Callable[[str, int], Addresses], *, connections: int) -> None:
        self.resolve = resolve
        self.pool = ThreadPoolExecutor(min(connections, RESOLVER_THREADS), "resolve")
        self.known: dict[str, tuple[float, Addresses]] = {}  # host → good until, addresses

    async def __call__(self, host: str, port: int) -> Addresses:
        """All addresses of a host. Raises what `resolve` raises; failures are not remembered."""
        good_until, addresses = self.known.get(host, (0.0, ()))
        if time.monotonic() < good_until:
            return addresses
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(self.pool, self.resolve, host, port)
        if len(self.known) >= MAX_KNOWN_HOSTS:
            self.known.clear()
        self.known[host] = time.monotonic() + ADDRESSES_GOOD_FOR_S, addresses
        return addresses

    def close(self) -> None:
        """Drop the look-ups that have not begun. Those that have end by themselves."""
        self.pool.shutdown(wait=False, cancel_futures=True)


class Hosts:
    """The slots for connections to each host, and the pauses that hosts asked for."""

    def __init__(self, connections_per_host: int) -> None:
        self.connections_per_host = connections_per_host
        # Weak: the slots of a host are forgotten with its last row in flight.
        self.slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self.resumes_at: dict[str, float] = {}  # host → time.monotonic()

    def slots_of(self, host: str) -> asyncio.Semaphore:
        """The slots of a host, for `async with`."""
        slots = self.slots.get(host)
        if slots is None:
            slots = self.slots[host] = asyncio.Semaphore(self.connections_per_host)
        return slots

    def pause(self, host: str, seconds: float) -> None:
        """Send the host nothing for this time. A longer pause that it asked for before holds."""
        now = time.monotonic()
        self.resumes_at = {name: at for name, at in self.resumes_at.items() if at > now}
        self.resumes_at[host] = max(now + seconds, self.resumes_at.get(host, 0.0))

    def pause_left_s(self, host: str) -> float:
        """Seconds until the host may be asked again; 0 if it does not pause."""
        return max(0.0, self.resumes_at.get(host, 0.0) - time.monotonic())


def retry_after_s(header: str | None) -> float | None:
    """Seconds from now that a Retry-After header asks for: a number, or an HTTP date.

    None without a header, or for one that is neither.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # An HTTP date is in UTC; "-0000" would leave the zone open.
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
