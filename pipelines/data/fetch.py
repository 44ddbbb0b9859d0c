"""Fetch one URL under a `UrlPolicy`: bounded in bytes, time and redirects."""

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from functools import cache
from random import uniform
from urllib.parse import urljoin

from pipelines.data.url_policy import DEFAULT_PORTS, Refused, Target, UrlPolicy, check_url

log = logging.getLogger(__name__)

USER_AGENT = "unclip/0.1 (image-text pairs; honours X-Robots-Tag)"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
CHUNK_BYTES = 64 * 1024
# Directives of the header X-Robots-Tag by which an owner opts out of training.
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex"})


@dataclass(frozen=True)
class Fetched:
    """A complete response with status 200."""

    body: bytes
    headers: Message

    @property
    def opts_out(self) -> bool:
        """Whether an X-Robots-Tag header asks every robot not to use the image for training.

        A value is a list of directives, or "robot: directives" for a robot of that name only.
        """
        for value in self.headers.get_all("X-Robots-Tag", []):
            directives = value.lower().split(",")
            if ":" not in directives[0] and OPT_OUTS & {each.strip() for each in directives}:
                return True
        return False


@cache
def tls_context() -> ssl.SSLContext:
    """The default context, which checks certificates against the host's name."""
    return ssl.create_default_context()


class PinnedConnection(http.client.HTTPConnection):
    """A connection to the addresses that were checked; the host is not resolved again."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s)
        self.default_port = DEFAULT_PORTS[target.scheme]
        self.target = target
        self.ends_at = time.monotonic() + timeout_s
        self.expired = threading.Event()
        self.live: socket.socket | None = None  # http.client drops self.sock while a body is read

    def connect(self) -> None:
        """Open the connection to the first address that answers."""
        self.live = self.sock = self.open_socket()
        if self.target.scheme == "https":
            self.live = self.sock = tls_context().wrap_socket(
                self.sock, server_hostname=self.target.host, do_handshake_on_connect=False
            )
            self.sock.do_handshake()  # only now, so that the deadline can end it
        if self.expired.is_set():
            raise TimeoutError

    def open_socket(self) -> socket.socket:
        """Try the addresses in the resolver's order, within the time that is left."""
        failure: OSError = ConnectionError("no address")
        for address in self.target.addresses:
            left_s = self.ends_at - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            try:
                return socket.create_connection((address, self.target.port), left_s)
            except OSError as error:
                failure = error
        raise failure

    def expire(self) -> None:
        """Shut the socket down, which ends a blocked read; called by the deadline's timer."""
        self.expired.set()
        if self.live is not None:
            with contextlib.suppress(OSError):  # the connection has already ended
                # The method of the plain socket: a TLS shutdown would touch the state being read.
                socket.socket.shutdown(self.live, socket.SHUT_RDWR)


def as_refusal(error: Exception, target: Target) -> Refused:
    """The refusal for an error of the socket, TLS or HTTP layer."""
    where = f"{target.host}:{target.port}: {error}"
    if isinstance(error, TimeoutError):
        return Refused("timeout", where, transient=True)
    if isinstance(error, ssl.SSLError):
        return Refused("tls", where)
    if isinstance(error, http.client.IncompleteRead):
        return Refused("incomplete_body", where, transient=True)
    if isinstance(error, OSError | http.client.RemoteDisconnected):
        return Refused("connection", where, transient=True)
    return Refused("bad_response", where)  # not HTTP, or not a request that HTTP can carry


def read_body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """The whole body. Raises `Refused` as soon as it is larger than `max_bytes`."""
    promised = response.length  # None for a chunked body, or one that ends with the connection
    if promised is not None and promised > max_bytes:
        raise Refused("too_large", f"{promised} bytes promised, {max_bytes} allowed")
    body = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise Refused("too_large", f"more than the {max_bytes} bytes allowed")
    if promised is not None and len(body) < promised:
        raise http.client.IncompleteRead(bytes(body), promised - len(body))
    return bytes(body)


def request(target: Target, *, max_bytes: int, timeout_s: float) -> Fetched | str:
    """One request. Returns the response, or the URL that it redirects to. Raises `Refused`."""
    connection = PinnedConnection(target, timeout_s)
    # A server that sends a byte now and then never triggers the socket's own timeout.
    deadline = threading.Timer(timeout_s, connection.expire)
    deadline.daemon = True
    deadline.start()
    try:
        headers = {"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"}
        connection.request("GET", target.path, headers=headers)
        response = connection.getresponse()
        if response.status in REDIRECTS and response.headers["Location"]:
            return str(response.headers["Location"])
        if response.status != 200:
            transient = response.status in TRANSIENT_STATUSES
            raise Refused(f"http_{response.status}", target.host, transient=transient)
        fetched = Fetched(read_body(response, max_bytes), response.headers)
        if connection.expired.is_set():  # a truncated body of unknown length would look complete
            raise TimeoutError
        return fetched
    except (OSError, ValueError, http.client.HTTPException) as error:
        late = connection.expired.is_set()
        raise as_refusal(TimeoutError("too slow") if late else error, target) from error
    finally:
        deadline.cancel()
        connection.close()


def fetch(url: str, policy: UrlPolicy) -> Fetched:
    """Fetch a URL, following redirects that the policy allows as well. Raises `Refused`."""
    ends_at = time.monotonic() + policy.timeout_s
    for _ in range(policy.max_redirects + 1):
        target = check_url(url, policy)
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            raise Refused("timeout", f"{target.host}: while redirected", transient=True)
        answer = request(target, max_bytes=policy.max_bytes, timeout_s=left_s)
        if isinstance(answer, Fetched):
            return answer
        url = urljoin(url, answer)
    raise Refused("too_many_redirects", f"more than {policy.max_redirects}")


def fetch_with_retries(
    url: str,
    policy: UrlPolicy,
    *,
    retries: int,
    backoff_s: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> Fetched:
    """Fetch, and retry transient failures: a time-out, a reset, a server error. Raises `Refused`.

    Before retry n, counted from 0, waits for a random time in [1, 2] · backoff_s · 2^n.
    """
    for attempt in range(retries + 1):
        try:
            return fetch(url, policy)
        except Refused as refusal:
            if not refusal.transient or attempt == retries:
                raise
            log.debug("retry %d of %d for %s: %s", attempt + 1, retries, url, refusal)
        # Random, so that the rows of one host do not all return at once.
        sleep(backoff_s * 2**attempt * uniform(1, 2))
    raise AssertionError("the last attempt returns or raises")
