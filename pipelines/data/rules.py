"""The rules of the filter: each looks at one pair and returns why the pair is rejected, or None.

The built-in rules come from published data sets (DALL-E: short captions, other languages, dates,
extreme aspect ratios; LAION: small images, duplicates). A new one is a class here and an entry in
`RULES`. A rule in a module of the user's own is named "module:Name" in the configuration:

    @dataclass(frozen=True, kw_only=True)
    class NoMemes(FilterRule):
        tag: ClassVar[str] = "no_memes"
        words: tuple[str, ...]

        def reason(self, row: Row) -> str | None:
            return "meme" if any(word in row["caption"] for word in self.words) else None
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from unclip.config import Config, ConfigError
from unclip.extension import resolve

log = logging.getLogger(__name__)

# A row of PAIRS, with `repeats_earlier` (bool). It has `image` only if a rule needs images.
Row = Mapping[str, Any]


class FilterRule(Config, ABC):
    """Base of all rules. A rule is a frozen dataclass whose fields are its settings."""

    tag: ClassVar[str]  # stable and in the key: change it when the same settings reject other pairs
    needs_image: ClassVar[bool] = False  # row["image"] holds the encoded image

    @abstractmethod
    def reason(self, row: Row) -> str | None:
        """The reason that is counted for a rejected pair; None for one that passes."""

    def check(self) -> None:
        """Raise `ConfigError` if the rule cannot work; called before anything runs."""


@dataclass(frozen=True, kw_only=True)
class CaptionLength(FilterRule):
    """Characters of the caption, without the white space around it."""

    tag: ClassVar[str] = "caption_length"

    min_chars: int  # shorter captions are rejected
    max_chars: int  # longer captions are rejected

    def __post_init__(self) -> None:
        if not 0 <= self.min_chars <= self.max_chars:
            raise ConfigError(
                f"min_chars={self.min_chars} and max_chars={self.max_chars} leave no caption; give "
                "0 <= min_chars <= max_chars"
            )

    def reason(self, row: Row) -> str | None:
        """Rejects as caption_too_short or caption_too_long."""
        length = len(row["caption"].strip())
        if length < self.min_chars:
            return "caption_too_short"
        return "caption_too_long" if length > self.max_chars else None


_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_WEEKDAY = (
    r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b,?\s+(?=\d|[a-z]+\.?\s+\d)"
)
_NUMBER = r"\d{1,2}(?:st|nd|rd|th)?"
_YEAR = r"(?:19|20)\d\d"
_DATE = re.compile(
    rf"""
      \d{{1,4}}([-/.])\d{{1,2}}\1\d{{1,4}}             # 2021-04-07, 7/4/2021, 07.04.21
    | \b\d{{1,2}}:\d\d(?::\d\d)?(?:\s?[ap]\.?m\.?)?    # 18:32, 6:32:10 pm
    | \b(?:{_WEEKDAY})?{_MONTH}\s+{_NUMBER}(?:,?\s+{_YEAR})?\b  # Wed, April 7th, 2021
    | \b(?:{_WEEKDAY})?{_NUMBER}\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR})?\b  # 7 April 2021
    | \b{_MONTH}\s+{_YEAR}\b                           # April 2021
    | \b{_YEAR}\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_mostly_date(text: str) -> bool:
    """Whether at least half of the text's letters and digits belong to dates and times."""
    in_dates = sum(map(str.isalnum, "".join(match.group() for match in _DATE.finditer(text))))
    return 2 * in_dates >= sum(map(str.isalnum, text)) > 0


@dataclass(frozen=True, kw_only=True)
class CaptionDate(FilterRule):
    """Captions that are mostly a date, as cameras and blogs write them."""

    tag: ClassVar[str] = "caption_date"

    def reason(self, row: Row) -> str | None:
        """Rejects as caption_is_a_date."""
        return "caption_is_a_date" if is_mostly_date(row["caption"]) else None


@cache
def language_identifier() -> Any:
    """py3langid's language model, with probabilities that sum to 1; loaded once per process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    log.info("loading the language model of py3langid")
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@dataclass(frozen=True, kw_only=True)
class Language(FilterRule):
    """Captions in other languages, if they are long enough to tell the language."""

    tag: ClassVar[str] = "language"

    keep: tuple[str, ...]  # ISO 639-1 codes
    min_probability: float  # captions with another language at least this likely are rejected
    min_chars: int  # shorter captions pass, because their language is uncertain

    def __post_init__(self) -> None:
        if not self.keep or any(len(c) not in (2, 3) or not c.islower() for c in self.keep):
            raise ConfigError(
                f"keep={self.keep} must be ISO 639 codes such as 'en' or 'de'; leave the rule out "
                "to keep every language"
            )
        if not 0 < self.min_probability <= 1:
            raise ConfigError(f"min_probability={self.min_probability} is not in (0, 1]")

    def check(self) -> None:
        """Raise `ConfigError` for languages that the model does not know."""
        known = sorted(language_identifier().labels)
        unknown = sorted(set(self.keep) - set(known))
        if unknown:
            raise ConfigError(
                f"language: keep={self.keep}: {', '.join(unknown)} cannot be detected; the "
                f"detectable languages are {', '.join(known)}"
            )

    def reason(self, row: Row) -> str | None:
        """Rejects as language."""
        if len(row["caption"]) < self.min_chars:
            return None
        language, probability = language_identifier().classify(row["caption"])
        is_other = language not in self.keep and probability >= self.min_probability
        return "language" if is_other else None


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


RULES: Mapping[str, type[FilterRule]] = {
    rule.tag: rule
    for rule in (CaptionLength, CaptionDate, Language, ImageSide, AspectRatio, Duplicate)
}


def find_rule(name: str) -> type[FilterRule]:
    """The class of a built-in rule, or of "module:Name". Raises `ConfigError`."""
    found = resolve(name, RULES, what="filter rule")
    is_rule = isinstance(found, type) and issubclass(found, FilterRule)
    if not (is_rule and "__dataclass_fields__" in vars(found) and hasattr(found, "tag")):
        raise ConfigError(
            f"{name} is {found!r}, which is not a filter rule; write a class with "
            "`@dataclass(frozen=True, kw_only=True)`, the base class "
            "pipelines.data.rules.FilterRule and a class attribute `tag`"
        )
    return found
