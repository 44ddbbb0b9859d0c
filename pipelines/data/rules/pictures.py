"""Rules about the image: its size, and images that occur more than once or show nothing."""

import io
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from pipelines.data.image_statistics import colour_spread
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
        return "duplicate" if row["repeats"] == "duplicate" else None


MAX_DISTANCE = 3  # bits; the search finds every pair up to here


@dataclass(frozen=True, kw_only=True)
class NearCopy(FilterRule):
    """Images that look like one that is kept: resized, encoded again, or slightly changed."""

    tag: ClassVar[str] = "near_copy"

    max_distance: int  # 0-3 of the 64 bits of the perceptual hash, in which near copies differ

    def __post_init__(self) -> None:
        if not 0 <= self.max_distance <= MAX_DISTANCE:
            raise ConfigError(
                f"max_distance={self.max_distance} is not in 0 to {MAX_DISTANCE}; with more bits, "
                "different images count as copies"
            )

    def reason(self, row: Row) -> str | None:
        """Rejects as near_copy."""
        return "near_copy" if row["repeats"] == "near_copy" else None


@dataclass(frozen=True, kw_only=True)
class Blank(FilterRule):
    """Images of nearly one colour, such as placeholders."""

    tag: ClassVar[str] = "blank"
    needs_image: ClassVar[bool] = True

    min_std: float  # of the most varied channel (0 to 127.5), without a border of 1/16 of each side

    def __post_init__(self) -> None:
        if not 0 < self.min_std <= 127.5:
            raise ConfigError(
                f"min_std={self.min_std} is not in (0, 127.5]; 4.0 rejects images that look empty"
            )

    def reason(self, row: Row) -> str | None:
        """Rejects as blank."""
        with Image.open(io.BytesIO(row["image"])) as image:
            return "blank" if colour_spread(image) < self.min_std else None
