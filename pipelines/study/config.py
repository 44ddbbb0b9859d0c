"""Settings of the study."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.scenes.dataset import VERSION
from unclip.config import Config, ConfigError

MIN_SCENES = MIN_CAPTIONS = 8  # distances and shares of fewer mean nothing


@dataclass(frozen=True, kw_only=True)
class SceneProbe(Config):
    """Scenes that a program draws and checks; see `pipelines.scenes`."""

    tag: ClassVar[str] = "scene_probe"

    version: int  # of the set of scenes
    per_kind: int  # held-out scenes at most, of each kind: single, binding, counting, text

    def __post_init__(self) -> None:
        """Raise `ConfigError` for an unknown set."""
        if self.version != VERSION:
            raise ConfigError(
                f"study.scenes.version={self.version} is unknown; this release has version "
                f"{VERSION}. Figures of different versions cannot be compared."
            )
        if self.per_kind < MIN_SCENES:
            raise ConfigError(
                f"study.scenes.per_kind={self.per_kind} is too few; give {MIN_SCENES} or more"
            )


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Config):
    """What is compared, on the first of the held-out captions that were evaluated."""

    tag: ClassVar[str] = "study"

    captions: int  # at most; each variant draws one image for each
    prior_guidance: tuple[float, ...] = ()  # guidance scales of the first prior
    decoder_guidance: tuple[float, ...] = ()  # guidance scales of the decoder
    scenes: SceneProbe | None = None  # null: no scenes are drawn
    batch_size: int  # captions of a shard

    def __post_init__(self) -> None:
        """Raise `ConfigError` for settings that cannot work."""
        if self.captions < MIN_CAPTIONS:
            raise ConfigError(
                f"study.captions={self.captions} is too few for a distance; give "
                f"{MIN_CAPTIONS} or more, better 64"
            )
        if self.batch_size < 1:
            raise ConfigError(f"study.batch_size={self.batch_size} must be at least 1")
