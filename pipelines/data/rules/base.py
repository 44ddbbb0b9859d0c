"""The base of all filter rules, and the row that a rule sees.

A rule of the user's own is a class like this one, or a function (`functions.FunctionRule`):

    @dataclass(frozen=True, kw_only=True)
    class NoMemes(FilterRule):
        tag: ClassVar[str] = "no_memes"
        words: tuple[str, ...]

        def reason(self, row: Row) -> str | None:
            return "meme" if any(word in row["caption"] for word in self.words) else None
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from unclip.config import Config, ConfigError

# The columns of a pair and the extra columns of the list. A row has `image` (the encoded bytes of
# the smallest stored rendition) only if a rule needs it.
Row = Mapping[str, Any]
ColumnKind = Literal["number", "text"]

# The columns with numbers or text that every row has, whatever the list carries.
PAIR_COLUMNS: Mapping[str, ColumnKind] = {
    "key": "text",
    "url": "text",
    "caption": "text",
    "width": "number",
    "height": "number",
    "original_width": "number",
    "original_height": "number",
    "sha256": "text",
}


class FilterRule(Config, ABC):
    """Base of all rules. A rule is a frozen dataclass whose fields are its settings."""

    tag: ClassVar[str]  # stable and in the key: change it when the same settings reject other pairs
    needs_image: ClassVar[bool] = False  # row["image"] holds the encoded image
    # The class of each setting, in a rule whose settings have names of the user's choice. The rule
    # gets them in one field, `entries`.
    entry: ClassVar[type[Config] | None] = None

    @abstractmethod
    def reason(self, row: Row) -> str | None:
        """The reason that is counted for a rejected pair; None for one that passes."""

    def check(self) -> None:
        """Raise `ConfigError` if the rule cannot work; called before anything runs."""

    def digests(self) -> Mapping[str, str]:
        """Digests of files that decide what is rejected, by name. They are in the stage's key.

        Raises `ConfigError` if a file cannot be read.
        """
        return {}

    @property
    def columns_needed(self) -> Mapping[str, ColumnKind]:
        """The columns with numbers or text that the rule reads by name, and what they must hold."""
        return {}


def column_value(row: Row, name: str) -> Any:
    """The value of a column that the list carries; None if it is missing in this row.

    Raises `ConfigError` if the list does not carry the column.
    """
    if name not in row:
        raise ConfigError(
            f"a filter rule reads the column {name!r}, which the rows do not have; name it in "
            "source.columns, so that it is read from the list"
        )
    return row[name]
