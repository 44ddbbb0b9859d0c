"""The settings of the download."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipelines.data.fetch_limits import FetchLimits
from pipelines.data.url_policy import UrlPolicy
from unclip.config import Config, ConfigError, not_in_key

QUALITIES = {"jpg": range(1, 101), "png": range(10)}  # for PNG it is the compression


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(Config):
    """How images are fetched and stored."""

    tag: ClassVar[str] = "download"

    image_size: int  # pixels; which side it sets depends on resize_mode
    resize_mode: Literal["border", "keep_ratio", "center_crop", "no"]  # img2dataset's modes
    encode_format: Literal["jpg", "png"]  # of the stored image
    encode_quality: int  # 1-100 for jpg, compression 0-9 for png
    renditions: tuple[int, ...] = ()  # sides, in pixels, of smaller squares stored beside the image
    max_bytes: int  # of one downloaded file
    max_pixels: int = 64_000_000  # of one image, before it is decoded
    connections: int = not_in_key()  # of one worker, to all hosts together
    connections_per_host: int = not_in_key(16)  # of one worker
    retries: int = not_in_key()  # of transient failures, such as a time-out or a 503
    timeout_s: float = not_in_key()  # for one attempt, redirects included
    max_retry_after_s: float = not_in_key(60.0)  # that a row waits for hosts that send Retry-After
    proxy: str | None = not_in_key(None)  # http://host:port, through which all requests go
    min_success_rate: float = not_in_key()  # of the whole list; the stage fails below it
    allow_hosts: tuple[str, ...] = not_in_key(())  # "host" or "host:port" that may be private

    def __post_init__(self) -> None:
        allowed = QUALITIES[self.encode_format]
        if self.encode_quality not in allowed:
            raise ConfigError(
                f"encode_quality={self.encode_quality} is not possible for {self.encode_format}; "
                f"choose {allowed[0]} to {allowed[-1]}"
            )
        for name in ("image_size", "max_bytes", "max_pixels"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive")
        if not 0 <= self.min_success_rate <= 1:
            raise ConfigError(f"min_success_rate={self.min_success_rate} is not between 0 and 1")
        self._check_renditions()
        assert self.limits
        assert self.policy

    @property
    def policy(self) -> UrlPolicy:
        """Which URLs may be fetched, and how much of each."""
        return UrlPolicy(max_bytes=self.max_bytes, allow_hosts=self.allow_hosts)

    @property
    def limits(self) -> FetchLimits:
        """How patiently a worker fetches, and with how many connections."""
        return FetchLimits(
            connections=self.connections,
            connections_per_host=self.connections_per_host,
            retries=self.retries,
            timeout_s=self.timeout_s,
            max_retry_after_s=self.max_retry_after_s,
            proxy=self.proxy,
        )

    def _check_renditions(self) -> None:
        sizes = self.renditions
        if list(sizes) != sorted(set(sizes)) or any(not 0 < s < self.image_size for s in sizes):
            raise ConfigError(
                f"renditions={sizes} must ascend, and be smaller than image_size={self.image_size}"
            )
        if sizes and self.resize_mode == "no":
            raise ConfigError(
                "renditions need images of a known size; choose another resize_mode than no"
            )
