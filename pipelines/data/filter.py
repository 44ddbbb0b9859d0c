"""Filter one shard of pairs: rules in the order of the configuration, the first reason counts.

Duplicates across shards are found beforehand (`pipelines.data.duplicates`); each shard comes with
the rows that repeat an earlier pair.
"""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PlainValidator, TypeAdapter, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from pipelines.artifacts.schema import PAIRS
from pipelines.data.rules import Duplicate, FilterRule, Row, find_rule
from unclip.config import Config, ConfigError
from unclip.extension import did_you_mean

log = logging.getLogger(__name__)

EXAMPLES_PER_REASON = 3
EXAMPLE_CHARS = 200
BATCH_ROWS = 256  # that are Python objects at a time, images included where a rule needs them

# Keys of the section before it had rules → where each value belongs now.
OLD_KEYS = {
    "min_caption_chars": "rules.caption_length.min_chars",
    "max_caption_chars": "rules.caption_length.max_chars",
    "drop_date_captions": "rules.caption_date: {}",
    "languages": "rules.language.keep",
    "language_min_probability": "rules.language.min_probability",
    "language_min_chars": "rules.language.min_chars",
    "min_side": "rules.image_side.min_pixels",
    "max_aspect_ratio": "rules.aspect_ratio.max_ratio",
    "drop_exact_duplicates": "rules.duplicate: {}",
}


def _invalid(at: tuple[str, ...], given: Any, error: Exception) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=at, input=given, ctx={"error": error})


def _read_rule(name: str, raw: Any) -> tuple[FilterRule | None, list[InitErrorDetails]]:
    """The rule with the settings of the YAML file, or what is wrong with them."""
    try:
        rule = find_rule(name)
    except ConfigError as error:
        return None, [_invalid((name,), raw, error)]
    if not isinstance(raw, Mapping):
        no_mapping = ConfigError("give a mapping of the rule's settings, or {} where it has none")
        return None, [_invalid((name,), raw, no_mapping)]
    known = tuple(field.name for field in dataclasses.fields(rule))  # type: ignore[arg-type]
    unknown = [
        _invalid((name, key), raw[key], ConfigError(_not_a_setting(key, known)))
        for key in raw
        if key not in known
    ]
    if unknown:
        return None, unknown
    try:
        return TypeAdapter(rule).validate_json(json.dumps(raw)), []
    except ValidationError as error:
        return None, [
            InitErrorDetails(
                type=e["type"],
                loc=(name, *e["loc"]),
                input=e["input"],
                ctx=e.get("ctx", {}),
            )
            for e in error.errors()
        ]


def _not_a_setting(key: str, known: tuple[str, ...]) -> str:
    hint = did_you_mean(key, known) or ";"
    return f"the rule has no such setting{hint} its settings are {', '.join(known) or 'none'}"


def read_rules(raw: Any) -> Mapping[str, FilterRule]:
    """Rules by name, from the mapping of a YAML file. A rule that is null is left out.

    Raises pydantic's ValidationError, with each place below `rules`.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError("rules must be a mapping from a rule's name to its settings")
    given = {name: settings for name, settings in raw.items() if settings is not None}
    read = {name: _read_rule(name, settings) for name, settings in given.items()}
    errors = [error for _, found in read.values() for error in found]
    if errors:
        raise ValidationError.from_exception_data("rules", errors)
    return {name: rule for name, (rule, _) in read.items() if rule is not None}


@dataclass(frozen=True, kw_only=True)
class FilterConfig(Config):
    """Which pairs are kept: those that pass every rule."""

    tag: ClassVar[str] = "filter"

    # The rules by name, in the order in which they are tried.
    rules: Annotated[Mapping[str, FilterRule], PlainValidator(read_rules)]

    @model_validator(mode="before")
    @classmethod
    def explain_old_keys(cls, raw: Any) -> Any:
        """Raise an error with the new place of each setting that moved into a rule."""
        old = [key for key in OLD_KEYS if isinstance(raw, dict) and key in raw]
        if old:
            moved = [ConfigError(f"this setting is now filter.{OLD_KEYS[key]}") for key in old]
            raise ValidationError.from_exception_data(
                "filter", [_invalid((k,), raw[k], e) for k, e in zip(old, moved, strict=True)]
            )
        return raw

    @property
    def finds_duplicates(self) -> bool:
        """Whether a rule asks which pairs repeat an earlier one."""
        return any(isinstance(rule, Duplicate) for rule in self.rules.values())

    @property
    def needs_image(self) -> bool:
        """Whether a rule looks at the image itself."""
        return any(rule.needs_image for rule in self.rules.values())


@dataclass(frozen=True)
class FilterItem:
    """One shard of pairs, by the URL of its Parquet file, and the rows that repeat others."""

    url: str
    duplicates: frozenset[int] = frozenset()


@dataclass(frozen=True)
class FilterWorker:
    """Callable on a FilterItem; made once a process."""

    config: FilterConfig

    def __call__(self, item: FilterItem) -> tuple[pa.Table, dict[str, Any]]:
        """Returns the kept rows, in their order, and the rejections by reason."""
        with fsspec.open(item.url, "rb") as source:
            table, metadata = self.filter(pq.read_table(source), item.duplicates)
        log.info("%s: kept %d of %d pairs", item.url, metadata["kept"], metadata["read"])
        return table, metadata

    def filter(
        self, pairs: pa.Table, duplicates: frozenset[int] = frozenset()
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Filter a table of PAIRS that is in memory."""
        captions = pairs["caption"].to_pylist()
        reasons = [self.reason(row) for row in self.rows(pairs, duplicates)]
        examples: dict[str, list[str]] = {}
        for caption, reason in zip(captions, reasons, strict=True):
            if reason and len(examples.setdefault(reason, [])) < EXAMPLES_PER_REASON:
                examples[reason].append(caption[:EXAMPLE_CHARS])
        rejected = Counter(reason for reason in reasons if reason)
        kept = pairs.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
        metadata = {
            "read": pairs.num_rows,
            "kept": kept.num_rows,
            "rejected": dict(sorted(rejected.items())),
            "examples": dict(sorted(examples.items())),
        }
        return kept.cast(PAIRS), metadata

    def rows(self, pairs: pa.Table, duplicates: frozenset[int]) -> Iterator[Row]:
        """The pairs as the rules see them; images only where a rule needs them."""
        seen = pairs if self.config.needs_image else pairs.drop_columns(["image"])
        position = 0
        for batch in seen.to_batches(max_chunksize=BATCH_ROWS):
            for row in batch.to_pylist():
                yield {**row, "repeats_earlier": position in duplicates}
                position += 1

    def reason(self, row: Row) -> str | None:
        """The reason of the first rule that rejects the pair; None for a pair that is kept."""
        for rule in self.config.rules.values():
            reason = rule.reason(row)
            if reason is not None:
                return reason
        return None
