"""A rule that is a plain function of the user's own, named "module:function".

    def no_memes(row: Row) -> str | None:
        return "meme" if "meme" in row["caption"] else None

The function may have the attributes `version` (int, in the key: change it when the function rejects
other pairs) and `needs_image` (bool).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pipelines.data.rules.base import FilterRule, Row
from unclip.config import ConfigError, not_in_key
from unclip.extension import resolve

RuleFunction = Callable[[Row], str | None]


@dataclass(frozen=True, kw_only=True)
class FunctionRule(FilterRule):
    """A function from a row to a reason, without settings. It is pickled by its name."""

    tag: str = not_in_key()  # type: ignore[misc] # "module:function", which stands for it in the key
    version: int = 1
    needs_image: bool = not_in_key(False)  # type: ignore[misc]

    def reason(self, row: Row) -> str | None:
        """What the function returns. Raises `ConfigError` unless that is text or None."""
        reason: object = _load(self.tag)(row)
        if reason is None or isinstance(reason, str):
            return reason
        raise ConfigError(
            f"filter rule {self.tag} returned {reason!r} for {row['url']}; return the reason as "
            "text for a pair to reject, and None for one to keep"
        )


@cache  # once per process: resolving a name looks for changed files
def _load(name: str) -> RuleFunction:
    return resolve(name, {}, what="filter rule")


def function_rule(name: str, function: Any) -> FunctionRule:
    """The rule of a function. Raises `ConfigError` unless it takes one argument, the row."""
    try:
        inspect.signature(function).bind({})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"filter rule {name} cannot be called with a row: {error}; write a function of one "
            "argument that returns the reason as text, or None"
        ) from error
    return FunctionRule(
        tag=name,
        version=getattr(function, "version", 1),
        needs_image=getattr(function, "needs_image", False),
    )
