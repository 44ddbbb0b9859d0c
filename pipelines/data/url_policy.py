"""Which addresses a URL list from the web may reach: neither local files nor private networks.

A URL is checked before each request, including redirects: first its text (`check_url`), then the
addresses of its host (`check_addresses`). The connection goes to the address that was checked, so a
host name that resolves differently a moment later does no harm.
"""

import ipaddress
import logging
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from unclip.config import Config, ConfigError

log = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
# Resolvers end a name at NUL; the others belong to other parts of a URL, or to no name.
NOT_IN_A_HOST = re.compile(r"[\0- \x7f%<>\\^`{|}]")
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class UrlPolicy(Config):
    """Which URLs may be fetched, and how much of each."""

    max_bytes: int  # of one body
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
        if self.max_bytes < 1 or self.max_redirects < 0:
            raise ConfigError(
                f"max_bytes={self.max_bytes} must be positive and "
                f"max_redirects={self.max_redirects} not negative"
            )


class Refused(Exception):  # noqa: N818 - an outcome that is counted, not an error
    """A row that yields no image: `reason` is a stable code, `transient` allows a retry.

    `detail` never quotes the URL, which may contain a password. `attempts` is the number of the
    attempt that failed, counted from 1.
    """

    def __init__(
        self, reason: str, detail: str, *, transient: bool = False, attempts: int = 1
    ) -> None:
        super().__init__(f"{reason}: {printable(detail)}")
        self.reason = reason
        self.detail = printable(detail)
        self.transient = transient
        self.attempts = attempts


def printable(text: str) -> str:
    """The text with "�" for what would break a terminal or UTF-8; servers choose the words."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


@dataclass(frozen=True)
class Target:
    """The parts of a URL whose text was checked. Its host is not resolved yet."""

    scheme: str
    host: str  # lower case, without brackets, as the URL spells it
    ascii_host: str  # as the resolver and the Host header spell it
    port: int
    path: str  # with the query, ASCII

    @property
    def name(self) -> str:
        """The host of a certificate, a limit or a pause: "example.org." is example.org."""
        return self.ascii_host.rstrip(".")

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = bracketed(self.ascii_host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def url_at(self, address: str) -> str:
        """The URL with an address in place of the host name."""
        return f"{self.scheme}://{bracketed(address)}:{self.port}{self.path}"


def bracketed(host: str) -> str:
    """A host as a URL spells it: an IPv6 address is in brackets."""
    return f"[{host}]" if ":" in host else host


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


def is_exempt(target: Target, policy: UrlPolicy) -> bool:
    """Whether the host, as the URL spells it, may have a private address."""
    spelled = bracketed(target.host)
    names = {target.host, spelled, f"{spelled}:{target.port}"}
    return bool(names & {host.lower() for host in policy.allow_hosts})


def join_url(base: str, url: str) -> str:
    """A URL that may be relative to `base`, made absolute. Raises `Refused`."""
    try:
        return urljoin(base, url)
    except ValueError as error:
        raise Refused("bad_url", "its IPv6 address or host name is not valid") from error


def check_url(url: str, policy: UrlPolicy) -> Target:
    """Check the text of a URL against the policy, without any I/O. Raises `Refused`."""
    try:
        parts = urlsplit(url.strip())
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except ValueError as error:
        raise Refused("bad_url", "its port, IPv6 address or host name is not valid") from error
    if scheme not in policy.allowed_schemes:
        raise Refused("scheme", f"{scheme!r} is none of {', '.join(policy.allowed_schemes)}")
    if not host or NOT_IN_A_HOST.search(ascii_host):
        raise Refused("bad_url", f"{host!r} is no host")
    if parts.username is not None or parts.password is not None:
        raise Refused("credentials", f"name or password before {host}")
    # Header values of a redirect are bytes that need not be UTF-8; they are sent on unchanged.
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~", errors="surrogateescape")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?[]", errors="surrogateescape")
    return Target(
        scheme=scheme,
        host=host,
        ascii_host=ascii_host,
        port=DEFAULT_PORTS[scheme] if port is None else port,
        path=f"{path}?{query}" if query else path,
    )


def check_addresses(target: Target, addresses: Sequence[str], policy: UrlPolicy) -> None:
    """Check all addresses that the host resolved to. Raises `Refused`."""
    if is_exempt(target, policy):
        return
    # All must be public: a rebinding attack mixes private addresses into public ones.
    private = [a for a in addresses if not is_public(ipaddress.ip_address(a))]
    if private:
        log.info("refused %s, whose address %s is private", target.host, private[0])
        raise Refused("private_address", f"{target.host} is {', '.join(private)}")


def without_credentials(url: str) -> str:
    """The URL as records may show it: without a user name and password."""
    return re.sub(r"//[^/@]*@", "//...@", url)
