"""Conditions on columns of the list, such as scores and licences that a public list comes with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.data.rules.base import ColumnKind, FilterRule, Row, column_value
from unclip.config import Config, ConfigError

Values = tuple[str | float, ...]


@dataclass(frozen=True, kw_only=True)
class Condition(Config):
    """What one column must hold. A pair is rejected unless every given setting is met."""

    tag: ClassVar[str] = "condition"

    min: float | None = None  # smaller numbers are rejected as `<column>_low`
    max: float | None = None  # larger numbers are rejected as `<column>_high`
    one_of: Values = ()  # any other value is rejected as `<column>_value`
    not_one_of: Values = ()  # these values are rejected as `<column>_value`
    matches: str | None = None  # regular expression; text without it is rejected as `<column>_text`
    keep_missing: bool = False  # false: pairs without a value are rejected as `<column>_missing`

    def __post_init__(self) -> None:
        if len(self._kinds) != 1:
            found = "compares with numbers and with text" if self._kinds else "has no condition"
            raise ConfigError(
                f"the column {found}; give min, max, one_of or not_one_of with numbers, or "
                "matches, one_of or not_one_of with text"
            )
        if self.min is not None and self.max is not None and not self.min <= self.max:
            raise ConfigError(
                f"min={self.min} and max={self.max} leave no pair; give min <= max, or one of them"
            )
        try:
            re.compile(self.matches or "")
        except re.error as error:
            raise ConfigError(
                f"matches={self.matches!r} is not a regular expression: {error}"
            ) from error

    @property
    def _kinds(self) -> set[ColumnKind]:
        given = (self.min, self.max, self.matches, *self.one_of, *self.not_one_of)
        return {"text" if isinstance(v, str) else "number" for v in given if v is not None}

    @property
    def kind(self) -> ColumnKind:
        """What the column must hold."""
        (kind,) = self._kinds
        return kind

    def fault(self, value: Any) -> str | None:
        """Why a value fails: missing, low, high, value or text; None if it passes.

        None and NaN are missing values. Any other value must be of the column's kind.
        """
        if value is None or value != value:  # NaN differs from itself
            return None if self.keep_missing else "missing"
        if self.min is not None and value < self.min:
            return "low"
        if self.max is not None and value > self.max:
            return "high"
        if (self.one_of and value not in self.one_of) or value in self.not_one_of:
            return "value"
        if self.matches is not None and not re.search(self.matches, value):
            return "text"
        return None


@dataclass(frozen=True, kw_only=True)
class Columns(FilterRule):
    """Pairs by the columns of the list, such as similarity or license; conditions by column."""

    tag: ClassVar[str] = "columns"
    entry: ClassVar[type[Config] | None] = Condition

    entries: Mapping[str, Condition]  # by column, in the order in which they are tried

    def __post_init__(self) -> None:
        if not self.entries:
            raise ConfigError("columns names no column; give one, such as similarity: {min: 0.28}")

    @property
    def columns_needed(self) -> Mapping[str, ColumnKind]:
        """The columns with a condition."""
        return {column: condition.kind for column, condition in self.entries.items()}

    def reason(self, row: Row) -> str | None:
        """Rejects as <column>_missing, _low, _high, _value or _text."""
        for column, condition in self.entries.items():
            value = column_value(row, column)
            if value is not None and isinstance(value, str) != (condition.kind == "text"):
                raise ConfigError(
                    f"the column {column!r} holds {value!r}, but its condition compares it with "
                    f"{condition.kind}; set source.columns.{column} and the condition to one kind"
                )
            fault = condition.fault(value)
            if fault is not None:
                return f"{column}_{fault}"
        return None
