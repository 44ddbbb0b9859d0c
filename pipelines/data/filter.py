"""Filter one shard of pairs: each rule is a function, and the first one broken is counted.

The rules are those that the field uses (DALL-E: short captions, other languages, dates, extreme
aspect ratios; LAION: small pictures, duplicates). Duplicates across shards are found beforehand
(`pipelines.data.duplicates`), and each shard is told its rows.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts.schema import PAIRS
from pipelines.data.dates import is_mostly_date
from unclip.config import Config, ConfigError

EXAMPLES_PER_REASON = 3


@dataclass(frozen=True, kw_only=True)
class FilterConfig(Config):
    """Which pairs are kept."""

    tag: ClassVar[str] = "filter"

    min_caption_chars: int  # shorter captions go
    max_caption_chars: int  # longer captions go
    drop_date_captions: bool  # captions that are mostly a date
    languages: tuple[str, ...]  # ISO 639-1 codes to keep; empty: any
    language_min_probability: float  # how sure of another language a rejection has to be
    language_min_chars: int  # shorter captions pass: their language cannot be told
    min_side: int  # pixels, of the picture as it was downloaded
    max_aspect_ratio: float  # long side to short side, as it was downloaded
    drop_exact_duplicates: bool  # same picture and caption, or same key

    def __post_init__(self) -> None:
        if not 0 <= self.min_caption_chars <= self.max_caption_chars:
            raise ConfigError(
                f"min_caption_chars={self.min_caption_chars} and max_caption_chars="
                f"{self.max_caption_chars} leave no caption; the first must not be the larger"
            )
        if self.max_aspect_ratio < 1:
            raise ConfigError(
                f"max_aspect_ratio={self.max_aspect_ratio} refuses every picture; it is the long "
                "side over the short one, so give 1.0 (squares only) or more"
            )
        if not 0 < self.language_min_probability <= 1:
            raise ConfigError(
                f"language_min_probability={self.language_min_probability} is not in (0, 1]"
            )
        if any(len(code) not in (2, 3) or not code.islower() for code in self.languages):
            raise ConfigError(
                f"languages={self.languages} must be codes of ISO 639 such as 'en' or 'de'"
            )


@dataclass(frozen=True)
class FilterItem:
    """One shard of pairs, by the URL of its Parquet file, and the rows that repeat others."""

    url: str
    duplicates: frozenset[int] = frozenset()


Row = dict[str, Any]  # of PAIRS, without the image
Rule = Callable[[Row], bool]  # whether the pair breaks it


@dataclass(frozen=True)
class FilterWorker:
    """Callable on a FilterItem; made once a process."""

    config: FilterConfig

    def __call__(self, item: FilterItem) -> tuple[pa.Table, dict[str, Any]]:
        """Returns the rows that are kept, in their order, and the rejections by reason."""
        with fsspec.open(item.url, "rb") as source:
            return self.filter(pq.read_table(source), item.duplicates)

    def filter(
        self, pairs: pa.Table, duplicates: frozenset[int] = frozenset()
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Filter a table of PAIRS that is in memory."""
        rows = pairs.drop_columns(["image"]).to_pylist()
        reasons = [self.reason(row, i in duplicates) for i, row in enumerate(rows)]
        examples: dict[str, list[str]] = {}
        for row, reason in zip(rows, reasons, strict=True):
            if reason and len(examples.setdefault(reason, [])) < EXAMPLES_PER_REASON:
                examples[reason].append(row["caption"][:200])
        rejected = Counter(reason for reason in reasons if reason)
        kept = pairs.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
        metadata = {
            "read": pairs.num_rows,
            "kept": kept.num_rows,
            "rejected": dict(sorted(rejected.items())),
            "examples": dict(sorted(examples.items())),
        }
        return kept.cast(PAIRS), metadata

    def reason(self, row: Row, is_duplicate: bool) -> str | None:
        """The name of the first rule that the pair breaks; None where it is kept."""
        for name, breaks in self.rules.items():
            if breaks(row):
                return name
        return "duplicate" if is_duplicate and self.config.drop_exact_duplicates else None

    @cached_property
    def rules(self) -> dict[str, Rule]:
        """The rules in their order, by the reason that is counted."""
        rules: dict[str, Rule] = {
            "caption_too_short": self.caption_too_short,
            "caption_too_long": self.caption_too_long,
        }
        if self.config.drop_date_captions:
            rules["caption_is_a_date"] = lambda row: is_mostly_date(row["caption"])
        if self.config.languages:
            rules["language"] = self.other_language
        return rules | {"too_small": self.too_small, "aspect_ratio": self.extreme_aspect_ratio}

    def caption_too_short(self, row: Row) -> bool:
        """Counted without the white space around it."""
        return len(row["caption"].strip()) < self.config.min_caption_chars

    def caption_too_long(self, row: Row) -> bool:
        """Counted as the shortest captions are."""
        return len(row["caption"].strip()) > self.config.max_caption_chars

    def other_language(self, row: Row) -> bool:
        """Whether the caption is long enough to tell, and surely in a language not asked for."""
        if len(row["caption"]) < self.config.language_min_chars:
            return False
        language, probability = self.identifier.classify(row["caption"])
        sure = probability >= self.config.language_min_probability
        return sure and language not in self.config.languages

    def too_small(self, row: Row) -> bool:
        """By the shorter side."""
        return bool(min(row["original_width"], row["original_height"]) < self.config.min_side)

    def extreme_aspect_ratio(self, row: Row) -> bool:
        """Long side over short side."""
        short, long = sorted((row["original_width"], row["original_height"]))
        return bool(long > self.config.max_aspect_ratio * short)

    @cached_property
    def identifier(self) -> Any:
        """The language model that py3langid brings along, with probabilities that sum to 1."""
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        unknown = set(self.config.languages) - set(identifier.labels)
        if unknown:
            raise ConfigError(
                f"languages={self.config.languages}: {', '.join(sorted(unknown))} cannot be "
                f"detected; what can: {', '.join(sorted(identifier.labels))}"
            )
        return identifier
