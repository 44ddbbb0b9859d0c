"""Deny lists: hosts, keys and digests of files that must not be trained on, in text files.

A list has one entry a line. What follows a # is a comment. A list may be compressed (.gz) and be on
any fsspec file system; every worker reads it once.
"""

import logging
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar

import fsspec
import numpy as np

from pipelines.core.digests import file_digest
from pipelines.data.host_names import domains_of, host_of, is_host, normal_host
from pipelines.data.rules.base import FilterRule, Row
from unclip.config import ConfigError, not_in_key

log = logging.getLogger(__name__)

KEY_CHARS, SHA256_CHARS = 20, 64


@dataclass(frozen=True)
class DenyList:
    """The entries of a list as sorted 64-bit hashes: 8 bytes an entry.

    Another value is taken for one of N entries with a probability of N / 2^64.
    """

    hashes: "array[int]"

    def __contains__(self, entry: str) -> bool:
        hashed = _hash(entry)
        at = bisect_left(self.hashes, hashed)
        return at < len(self.hashes) and self.hashes[at] == hashed


def _hash(entry: str) -> int:
    return int.from_bytes(blake2b(entry.encode(), digest_size=8).digest(), "big")


def _host(entry: str) -> str | None:
    host = normal_host(entry)
    return host if is_host(host) else None


def _hex_digits(count: int) -> Callable[[str], str | None]:
    """A function that returns an entry of so many hexadecimal digits in lower case, or None."""

    def normal(entry: str) -> str | None:
        lower = entry.lower()
        return lower if len(lower) == count and set(lower) <= set("0123456789abcdef") else None

    return normal


# Setting → how its entries are written, or None for what is no entry; and what an entry is.
ENTRIES: Mapping[str, tuple[Callable[[str], str | None], str]] = {
    "hosts": (_host, "a host; write example.org, without scheme, port and path"),
    "keys": (_hex_digits(KEY_CHARS), f"a pair's key of {KEY_CHARS} hexadecimal digits"),
    "hashes": (_hex_digits(SHA256_CHARS), f"a sha256 of {SHA256_CHARS} hexadecimal digits"),
}


def read_deny_list(setting: str, url: str) -> DenyList:
    """The list of one of the settings in `ENTRIES`.

    Raises `ConfigError`, with the line of an entry that is none.
    """
    normalise, what = ENTRIES[setting]
    hashes = array("Q")
    with _reading(setting, url):
        for number, entry in _lines(url):
            normal = normalise(entry)
            if normal is None:
                raise ConfigError(f"deny.{setting}: {url}, line {number}: {entry!r} is not {what}")
            hashes.append(_hash(normal))
    log.info("deny.%s: %d entries in %s", setting, len(hashes), url)
    if hashes:  # an empty array has no buffer
        np.frombuffer(hashes, dtype=np.uint64).sort()  # in place
    return DenyList(hashes)


def _lines(url: str) -> Iterator[tuple[int, str]]:
    """The entries with their lines, from 1."""
    with fsspec.open(url, "rt", encoding="utf-8-sig", compression="infer") as file:
        for number, line in enumerate(file, start=1):
            entry = line.partition("#")[0].strip()
            if entry:
                yield number, entry


@contextmanager
def _reading(setting: str, url: str) -> Iterator[None]:
    """Wrap every error in `ConfigError`; file systems and decompressors have their own."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or repr(error)
        raise ConfigError(
            f"deny.{setting}: the list {url} cannot be read: {reason.rstrip('.')}; give the path "
            "or URL of a text file, compressed or not, that every worker can read"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Deny(FilterRule):
    """Pairs that deny lists name: text files with one entry a line and comments after #."""

    tag: ClassVar[str] = "deny"

    # The digests of the files' content are in the key instead.
    hosts: str | None = not_in_key(None)  # path or URL of hosts, which stand for subdomains too
    keys: str | None = not_in_key(None)  # path or URL of keys of pairs
    hashes: str | None = not_in_key(None)  # path or URL of sha256 of the files as downloaded

    def __post_init__(self) -> None:
        if not self._urls:
            raise ConfigError(f"deny names no list; give one of {', '.join(ENTRIES)}")

    @property
    def _urls(self) -> Mapping[str, str]:
        return {name: url for name in ENTRIES if (url := getattr(self, name)) is not None}

    @cached_property
    def _lists(self) -> Mapping[str, DenyList]:
        return {name: read_deny_list(name, url) for name, url in self._urls.items()}

    def __getstate__(self) -> dict[str, Any]:
        """The settings without the lists that were read: each process reads them itself."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check(self) -> None:
        """Read the lists. Raises `ConfigError` for a list or an entry that cannot be read."""
        _ = self._lists

    def digests(self) -> Mapping[str, str]:
        """sha256 of each file. Raises `ConfigError` if one cannot be read."""
        found = {}
        for name, url in self._urls.items():
            with _reading(name, url):
                found[name] = file_digest(url)
        return found

    def reason(self, row: Row) -> str | None:
        """Rejects as denied_host, denied_key or denied_hash."""
        lists = self._lists
        if "hosts" in lists:
            host = host_of(row["url"])
            if host is not None and any(name in lists["hosts"] for name in domains_of(host)):
                return "denied_host"
        if "keys" in lists and row["key"] in lists["keys"]:
            return "denied_key"
        return "denied_hash" if "hashes" in lists and row["sha256"] in lists["hashes"] else None
