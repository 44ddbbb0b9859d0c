"""Rules about the image: its size, and images that occur more than once or show nothing."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.data.rules.base import FilterRule, Row
from unclip.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class ImageSide(FilterRule):
    """Shorter side of the image, as downloaded."""

    tag: ClassVar[str] = "image_side"

    min_pixels: int  # smaller images are rejected

    def reason(self, row: Row) -> str | None:
        """Rejects as too_small."""
        shorter = min(row["original_width"], row["original_height"])
        return "too_small" if shorter < self.min_pixels else None


@dataclass(frozen=True, kw_only=True)
class AspectRatio(FilterRule):
    """Longer side over shorter side of the image, as downloaded."""

    tag: ClassVar[str] = "aspect_ratio"

    max_ratio: float  # images with a larger ratio are rejected; 1.0 keeps only squares

    def __post_init__(self) -> None:
        if self.max_ratio < 1:
            raise ConfigError(
                f"max_ratio={self.max_ratio} rejects every image; it is the longer side over the "
                "shorter one, so give 1.0 (squares only) or more"
            )

    def reason(self, row: Row) -> str | None:
        """Rejects as aspect_ratio."""
        shorter, longer = sorted((row["original_width"], row["original_height"]))
        return "aspect_ratio" if longer > self.max_ratio * shorter else None


@dataclass(frozen=True, kw_only=True)
class Duplicate(FilterRule):
    """Pairs with the key, or with the caption and the image bytes, of an earlier pair."""

    tag: ClassVar[str] = "duplicate"

    def reason(self, row: Row) -> str | None:
        """Rejects as duplicate."""
        return "duplicate" if row["repeats_earlier"] else None
