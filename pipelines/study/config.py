"""Settings of the study."""

from dataclasses import dataclass
from typing import ClassVar

from unclip.config import Config, ConfigError


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Config):
    """What is compared, on the first of the held-out captions that were evaluated."""

    tag: ClassVar[str] = "study"

    captions: int  # at most; each variant draws one image for each
    prior_guidance: tuple[float, ...] = ()  # guidance scales of the first prior
    decoder_guidance: tuple[float, ...] = ()  # guidance scales of the decoder
    batch_size: int  # captions of a shard

    def __post_init__(self) -> None:
        """Raise `ConfigError` for settings that cannot work."""
        if self.captions < 8:
            raise ConfigError(
                f"study.captions={self.captions} is too few for a distance; give 8 or more, "
                "better 64"
            )
        if self.batch_size < 1:
            raise ConfigError(f"study.batch_size={self.batch_size} must be at least 1")
