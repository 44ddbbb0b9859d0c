"""The built-in rules by name. A new one is a class in this folder and an entry here."""

import inspect
from collections.abc import Mapping

from pipelines.data.rules.base import FilterRule
from pipelines.data.rules.captions import CaptionDate, CaptionLength, Language
from pipelines.data.rules.columns import Columns
from pipelines.data.rules.deny import Deny
from pipelines.data.rules.functions import FunctionRule, function_rule
from pipelines.data.rules.pictures import AspectRatio, Blank, Duplicate, ImageSide, NearCopy
from pipelines.data.rules.safety import Safety
from unclip.config import ConfigError
from unclip.extension import resolve

RULES: Mapping[str, type[FilterRule]] = {
    rule.tag: rule
    for rule in (
        CaptionLength,
        CaptionDate,
        Language,
        ImageSide,
        AspectRatio,
        Blank,
        Safety,
        Columns,
        Deny,
        Duplicate,
        NearCopy,
    )
}


def find_rule(name: str) -> type[FilterRule] | FunctionRule:
    """The class of a built-in rule or of "module:Name", or the rule of "module:function".

    Raises `ConfigError`.
    """
    found: object = resolve(name, RULES, what="filter rule")
    if inspect.isroutine(found):
        return function_rule(name, found)
    is_rule = isinstance(found, type) and issubclass(found, FilterRule)
    if not (is_rule and "__dataclass_fields__" in vars(found) and hasattr(found, "tag")):
        raise ConfigError(
            f"{name} is {found!r}, which is not a filter rule; write a class with "
            "`@dataclass(frozen=True, kw_only=True)`, the base class "
            "pipelines.data.rules.FilterRule and a class attribute `tag`, or a function from a row "
            "to a reason or None"
        )
    assert isinstance(found, type)
    return found
