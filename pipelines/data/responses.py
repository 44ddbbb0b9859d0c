"""What a server sends: a body within bounds, an opt-out, or an error that has a reason."""

import hashlib
import ssl
from dataclasses import dataclass

from aiohttp import (
    ClientConnectionError,
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientHttpProxyError,
    ClientPayloadError,
    ClientProxyConnectionError,
    ClientResponse,
    ClientResponseError,
    ClientSSLError,
)
from multidict import MultiMapping

from pipelines.data.url_policy import Refused, Target

TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# Directives of the header X-Robots-Tag by which an owner opts out of training.
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}  # hex digits → hashlib's name


@dataclass(frozen=True)
class Fetched:
    """A complete response with status 200."""

    body: bytes
    headers: MultiMapping[str]  # case-insensitive
    attempts: int = 1

    @property
    def opts_out(self) -> bool:
        """Whether an X-Robots-Tag header asks every robot not to use the image for training.

        A value is a list of directives, or "robot: directives" for a robot of that name only.
        """
        for value in self.headers.getall("X-Robots-Tag", []):
            directives = value.lower().split(",")
            if ":" not in directives[0] and OPT_OUTS & {each.strip() for each in directives}:
                return True
        return False


async def read_body(response: ClientResponse, max_bytes: int) -> bytes:
    """The whole body. Raises `Refused` as soon as it is larger than `max_bytes`."""
    promised = response.content_length  # None for a chunked body, or one that ends the connection
    if promised is not None and promised > max_bytes:
        raise Refused("too_large", f"{promised} bytes promised, {max_bytes} allowed")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise Refused("too_large", f"more than the {max_bytes} bytes allowed")
    return bytes(body)


def as_refusal(error: Exception, target: Target) -> Refused:
    """The refusal for an error of the socket, TLS or HTTP layer."""
    where = f"{target.host}:{target.port}: {' '.join(str(cause_of(error)).split())[:200]}"
    if isinstance(error, TimeoutError):
        return Refused("timeout", f"{target.host}:{target.port}: too slow", transient=True)
    if isinstance(error, ClientHttpProxyError):
        detail = f"{target.host}:{target.port}: the proxy answers {error.status} to CONNECT"
        return Refused("proxy", detail, transient=error.status in TRANSIENT_STATUSES)
    if isinstance(error, ClientProxyConnectionError | ClientConnectorDNSError):
        return Refused("proxy", where, transient=True)
    if isinstance(error, ClientSSLError | ssl.SSLError):
        return Refused("tls", where)
    if isinstance(error, ClientPayloadError):
        return Refused("incomplete_body", where, transient=True)
    if isinstance(error, ClientConnectionError | OSError):
        return Refused("connection", where, transient=True)
    return Refused("bad_response", where)  # not HTTP, or not a request that HTTP can carry


def cause_of(error: Exception) -> object:
    """What went wrong, without the URL of the request and without addresses of Python objects."""
    if isinstance(error, ClientResponseError):
        return error.message
    if isinstance(error, ClientConnectorCertificateError):
        return error.certificate_error
    return error.os_error if isinstance(error, ClientConnectorError) else error


def check_hash(body: bytes, expected: str) -> None:
    """Check a body against the hex digest that a list gives, of MD5, SHA-1, SHA-256 or SHA-512.

    The number of digits tells which. Raises `Refused`.
    """
    digest = expected.strip().lower()
    algorithm = ALGORITHMS.get(len(digest))
    if algorithm is None or set(digest) - set("0123456789abcdef"):
        raise Refused(
            "bad_hash", f"{expected[:150]!r} is no hex digest of 32, 40, 64 or 128 digits"
        )
    found = hashlib.new(algorithm, body, usedforsecurity=False).hexdigest()
    if found != digest:
        raise Refused("hash_mismatch", f"{algorithm} is {found}, {digest} expected")
