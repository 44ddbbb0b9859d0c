"""The base class of all typed configs, and the base classes of errors."""

import dataclasses
from typing import Any, ClassVar


class UnclipError(ValueError):
    """An error that the caller can fix; the message says what is wrong, where, and a fix."""


class ConfigError(UnclipError):
    """A setting or an input that cannot work."""


def not_in_key(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that affects how a result is computed but not the result, e.g. a timeout.

    The pipeline leaves the field out of a stage's key, so changing it recomputes nothing.
    """
    return dataclasses.field(default=default, metadata={"in_key": False})


class Config:
    """Base of the frozen dataclasses that configure something.

    A subclass is a `@dataclass(frozen=True, kw_only=True)`. It holds only str, int, float, bool,
    None, tuples, mappings and other configs. Required fields have no default. Its `__post_init__`
    raises `ConfigError` for values that contradict each other. The pipeline validates YAML with
    pydantic, which `__pydantic_config__` tells to refuse unknown keys and wrong types.
    """

    tag: ClassVar[str]  # the type's stable name in keys; a renamed class keeps its tag

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}
