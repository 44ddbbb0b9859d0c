"""The settings of the filter: rules by name, validated one by one."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import PlainValidator, TypeAdapter, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from pipelines.data.rules import (
    PAIR_COLUMNS,
    ColumnKind,
    Duplicate,
    FilterRule,
    NearCopy,
    find_rule,
)
from unclip.config import Config, ConfigError
from unclip.extension import did_you_mean

C = TypeVar("C", bound=Config)

# Old keys, from before the section had rules → where each setting is now.
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
    if isinstance(rule, FilterRule):  # a function has no settings
        return rule, _refused(raw, (), (name,))
    if rule.entry is None:
        return _read_settings(rule, raw, (name,))
    return _read_entries(rule, rule.entry, raw, name)


def _read_entries(
    rule: type[FilterRule], entry: type[Config], raw: Any, name: str
) -> tuple[FilterRule | None, list[InitErrorDetails]]:
    """A rule whose settings have names of the user's choice. A setting that is null is left out."""
    if not isinstance(raw, Mapping):
        return None, _refused(raw, (), (name,))
    given = {key: inner for key, inner in raw.items() if inner is not None}
    read = {key: _read_settings(entry, inner, (name, key)) for key, inner in given.items()}
    errors = [error for _, found in read.values() for error in found]
    if errors:
        return None, errors
    make: Any = rule
    try:
        return make(entries={key: config for key, (config, _) in read.items()}), []
    except ConfigError as error:
        return None, [_invalid((name,), raw, error)]


def _read_settings(
    kind: type[C], raw: Any, at: tuple[str, ...]
) -> tuple[C | None, list[InitErrorDetails]]:
    """A config of that class with the settings of the YAML file, or what is wrong with them."""
    known = tuple(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    refused = _refused(raw, known, at)
    if refused:
        return None, refused
    try:
        return TypeAdapter(kind).validate_json(json.dumps(raw)), []
    except ValidationError as error:
        return None, [
            InitErrorDetails(
                type=e["type"],
                loc=(*at, *e["loc"]),
                input=e["input"],
                ctx=e.get("ctx", {}),
            )
            for e in error.errors()
        ]


def _refused(raw: Any, known: tuple[str, ...], at: tuple[str, ...]) -> list[InitErrorDetails]:
    """The errors of settings that are no mapping, or have names that are not known."""
    if not isinstance(raw, Mapping):
        no_mapping = ConfigError("give a mapping of the rule's settings, or {} if it has none")
        return [_invalid(at, raw, no_mapping)]
    return [
        _invalid((*at, key), raw[key], ConfigError(_not_a_setting(key, known)))
        for key in raw
        if key not in known
    ]


def _not_a_setting(key: str, known: tuple[str, ...]) -> str:
    hint = did_you_mean(str(key), known) or ";"
    return f"the rule has no such setting{hint} its settings are {', '.join(known) or 'none'}"


def read_rules(raw: Any) -> Mapping[str, FilterRule]:
    """Rules by name, from the mapping of a YAML file. A rule that is null is left out.

    Raises pydantic's ValidationError, with error locations below `rules`.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError("rules must be a mapping from a rule's name to its settings")
    given = {name: settings for name, settings in raw.items() if settings is not None}
    read = {name: _read_rule(name, settings) for name, settings in given.items()}
    errors = [error for _, found in read.values() for error in found]
    if errors:
        raise ValidationError.from_exception_data("rules", errors)
    return {name: rule for name, (rule, _) in read.items() if rule is not None}


Rules = Annotated[Mapping[str, FilterRule], PlainValidator(read_rules)]


@dataclass(frozen=True, kw_only=True)
class FilterConfig(Config):
    """Which pairs are kept: those that pass every rule."""

    tag: ClassVar[str] = "filter"

    rules: Rules  # by name, or module:name for your own, in their order; null leaves one out

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
    def of_one_pair(self) -> "FilterConfig":
        """The rules that look at one pair."""
        rules = {n: r for n, r in self.rules.items() if not isinstance(r, Duplicate | NearCopy)}
        return replace(self, rules=rules)

    @property
    def of_repeats(self) -> "FilterConfig":
        """The rules that compare pairs, which see only pairs that pass all others."""
        alone = self.of_one_pair.rules
        return replace(self, rules={n: r for n, r in self.rules.items() if n not in alone})

    @property
    def max_distance(self) -> int | None:
        """Bits in which near copies may differ; None if no rule asks for them."""
        distances = [r.max_distance for r in self.rules.values() if isinstance(r, NearCopy)]
        return max(distances, default=None)

    def digests(self) -> Mapping[str, str]:
        """The content of files that rules read, by rule and setting."""
        return {
            f"{name}.{setting}": digest
            for name, rule in self.rules.items()
            for setting, digest in rule.digests().items()
        }

    @property
    def needs_image(self) -> bool:
        """Whether a rule looks at the image itself."""
        return any(rule.needs_image for rule in self.rules.values())

    def check_columns(self, carried: Mapping[str, ColumnKind]) -> None:
        """Raise `ConfigError` if a rule reads a column that the pairs do not have.

        carried: the extra columns of the list, `source.columns`.
        """
        known = {**PAIR_COLUMNS, **carried}
        for name, rule in self.rules.items():
            for column, kind in rule.columns_needed.items():
                if known.get(column) != kind:
                    raise ConfigError(_wrong_column(f"filter.rules.{name}", column, kind, known))


def _wrong_column(
    where: str, column: str, kind: ColumnKind, known: Mapping[str, ColumnKind]
) -> str:
    if column in known:
        return (
            f"{where} compares the column {column!r} with {kind}, but it holds {known[column]}; "
            f"change the condition, or set source.columns.{column} to {kind} if the list has that"
        )
    return (
        f"{where} reads the column {column!r}, which source.columns does not name"
        f"{did_you_mean(column, tuple(known)) or ';'} add source.columns.{column}: {kind} to read "
        "it from the list"
    )
