"""The built-in rules by name. A new one is a class in this folder and an entry here."""

from collections.abc import Mapping

from pipelines.data.rules.base import FilterRule
from pipelines.data.rules.captions import CaptionDate, CaptionLength, Language
from pipelines.data.rules.pictures import AspectRatio, Duplicate, ImageSide
from unclip.config import ConfigError
from unclip.extension import resolve

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
