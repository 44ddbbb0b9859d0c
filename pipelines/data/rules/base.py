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
from typing import Any, ClassVar

from unclip.config import Config

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
