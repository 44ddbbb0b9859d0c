"""The hosts of URLs in one spelling, so that they can be compared."""

import ipaddress
import re
from urllib.parse import urlsplit

import idna

MAX_CHARS = 253  # of a host name
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*(?!\d+$){_LABEL}")  # the last label is not a number
_DOTS = re.compile("[.\u3002\uff0e\uff61]")  # those that IDNA takes for a full stop


def host_of(url: str) -> str | None:
    """The host of a URL in its normal spelling, without user and port; None if it has none."""
    try:
        host = urlsplit(url.strip()).hostname
    except ValueError:  # such as a bad IPv6 literal
        return None
    return normal_host(host) if host else None


def normal_host(host: str) -> str:
    """A host in its normal spelling.

    Names are in lower case and ASCII (UTS #46, as browsers write them), without a final dot. IPv6
    addresses are compressed and have no brackets.
    """
    return _address(host) or ".".join(map(_ascii, _DOTS.split(host))).lower().removesuffix(".")


def is_host(host: str) -> bool:
    """Whether a normal spelling is that of an address or of a host name."""
    is_name = len(host) <= MAX_CHARS and _NAME.fullmatch(host) is not None
    return is_name or _address(host) is not None


def domains_of(host: str) -> tuple[str, ...]:
    """A normal host and, of a name, the domains above it: a.b.org, b.org, org."""
    if _address(host) is not None:
        return (host,)
    labels = host.split(".")
    return tuple(".".join(labels[n:]) for n in range(len(labels)))


def _address(host: str) -> str | None:
    """The normal spelling of an address; None for a name."""
    if ":" not in host and not host[-1:].isdigit():  # the usual case, without an exception
        return None
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        return str(ipaddress.ip_address(host[1:-1] if is_bracketed else host))
    except ValueError:
        return None


def _ascii(label: str) -> str:
    """A label in Punycode unless it is ASCII; unchanged if UTS #46 does not allow it.

    As in browsers, ASCII labels may have underscores, and others may have emoji. IDNA 2008 refuses
    both, so its own encoder is not used.
    """
    if label.isascii():
        return label
    try:
        mapped = idna.uts46_remap(label, std3_rules=False)
    except idna.IDNAError:
        return label
    return mapped if mapped.isascii() else f"xn--{mapped.encode('punycode').decode()}"
