"""Rules about the caption: its length, its language, and captions that are only a date."""

import logging
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pipelines.data.rules.base import FilterRule, Row
from unclip.config import ConfigError

log = logging.getLogger(__name__)


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
