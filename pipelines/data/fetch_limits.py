"""How patiently a worker fetches. Nothing here changes an image, so nothing is in a key."""

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from unclip.config import Config, ConfigError, not_in_key


@dataclass(frozen=True, kw_only=True)
class FetchLimits(Config):
    """How patiently a worker fetches, and with how many connections."""

    tag: ClassVar[str] = "fetch_limits"

    connections: int = not_in_key()  # of one worker, to all hosts together
    connections_per_host: int = not_in_key()  # of one worker
    retries: int = not_in_key()  # of transient failures, such as a time-out or a 503
    timeout_s: float = not_in_key()  # for one attempt, redirects included, waits for a turn not
    max_retry_after_s: float = not_in_key()  # that a row may wait for hosts that send Retry-After
    proxy: str | None = not_in_key(None)  # http://host:port, through which all requests go

    def __post_init__(self) -> None:
        positive = ("connections", "connections_per_host", "timeout_s")
        wrong = [n for n in positive if getattr(self, n) <= 0]
        wrong += [n for n in ("retries", "max_retry_after_s") if getattr(self, n) < 0]
        if wrong:
            raise ConfigError(
                f"{', '.join(f'{name}={getattr(self, name)}' for name in wrong)}: "
                f"{', '.join(positive)} must be positive, retries and max_retry_after_s not "
                "negative"
            )
        if self.proxy is not None:
            check_proxy(self.proxy)


def check_proxy(proxy: str) -> None:
    """Raises `ConfigError` for anything but http://host:port. Never quotes a password."""
    try:
        parts = urlsplit(proxy)
        plain = parts.scheme == "http" and parts.hostname and parts.port and "@" not in proxy
    except ValueError:
        plain = False
    if not plain:
        given = f"...@{proxy.rpartition('@')[2]}" if "@" in proxy else proxy
        raise ConfigError(
            f"proxy={given!r} is not of the form http://host:port; a name and password are not "
            "possible, so let the proxy recognise the workers by their addresses"
        )
