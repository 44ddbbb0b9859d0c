"""Which addresses a URL list from the web may reach: neither local files nor private networks.

A URL is checked before each request, including redirects. The connection goes to the address that
was checked, so a host name that resolves differently a moment later does no harm.
"""

import ipaddress
import logging
import socket
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from unclip.config import Config, ConfigError

log = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class UrlPolicy(Config):
    """Which URLs may be fetched, and how much of each."""

    max_bytes: int  # of one body
    timeout_s: float  # for one image, redirects included
    max_redirects: int = 5
    allowed_schemes: tuple[str, ...] = ("http", "https")
    # Hosts as the URL spells them, "host" or "host:port", that may have a private address.
    allow_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = set(self.allowed_schemes) - set(DEFAULT_PORTS)
        if unknown or not self.allowed_schemes:
            raise ConfigError(
                f"allowed_schemes={self.allowed_schemes} must be some of {tuple(DEFAULT_PORTS)}"
            )
        if self.max_bytes < 1 or self.timeout_s <= 0 or self.max_redirects < 0:
            raise ConfigError(
                f"max_bytes={self.max_bytes} and timeout_s={self.timeout_s} must be positive and "
                f"max_redirects={self.max_redirects} not negative"
            )


class Refused(Exception):  # noqa: N818 - an outcome that is counted, not an error
    """A row that yields no image: `reason` is a stable code, `transient` allows a retry."""

    def __init__(self, reason: str, detail: str, *, transient: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.transient = transient


@dataclass(frozen=True)
class Target:
    """A checked URL and its checked addresses. Connections go only to these."""

    scheme: str
    host: str  # without brackets
    port: int
    path: str  # with the query, ASCII
    addresses: tuple[str, ...]


def embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside an IPv6 address: mapped, 6to4, Teredo's client, NAT64."""
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def is_public(address: Address) -> bool:
    """Whether an address, and the IPv4 address inside it if any, is a public one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = embedded_ipv4(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )


def resolve(host: str, port: int) -> tuple[str, ...]:
    """All addresses of a host. The resolver reads decimal and hexadecimal spellings."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        transient = error.errno == socket.EAI_AGAIN
        raise Refused("unresolved", f"{host}: {error.strerror}", transient=transient) from error
    except (UnicodeError, OSError) as error:
        raise Refused("bad_url", f"host {host!r}: {error}") from error
    return tuple(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def is_exempt(host: str, port: int, policy: UrlPolicy) -> bool:
    """Whether the host, as the URL spells it, may have a private address."""
    spelled = f"[{host}]" if ":" in host else host
    return bool({host, spelled, f"{spelled}:{port}"} & {h.lower() for h in policy.allow_hosts})


def check_url(url: str, policy: UrlPolicy) -> Target:
    """Check a URL against the policy and resolve its host. Raises `Refused`."""
    try:
        parts = urlsplit(url.strip())
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError as error:  # a bad port or a bad IPv6 literal
        raise Refused("bad_url", f"{url!r}: {error}") from error
    if scheme not in policy.allowed_schemes:
        raise Refused("scheme", f"{scheme or 'no scheme'}: {url!r}")
    if not host:
        raise Refused("bad_url", f"no host in {url!r}")
    if parts.username is not None or parts.password is not None:
        raise Refused("credentials", f"name or password before {host}")
    port = DEFAULT_PORTS[scheme] if port is None else port
    addresses = resolve(host, port)
    if not is_exempt(host, port, policy):
        # All must be public: a rebinding attack mixes private addresses into public ones.
        private = [a for a in addresses if not is_public(ipaddress.ip_address(a))]
        if private:
            log.info("refused %s, whose address %s is private", host, private[0])
            raise Refused("private_address", f"{host} is {', '.join(private)}")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?[]")
    return Target(scheme, host, port, f"{path}?{query}" if query else path, addresses)
