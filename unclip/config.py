"""What every typed configuration of the project shares."""

import dataclasses
from typing import Any, ClassVar


class UnclipError(ValueError):
    """Errors that the caller can fix; the message says what, where, what was given and a fix."""


class ConfigError(UnclipError):
    """A setting that cannot work."""


def not_in_key(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that changes how something is made and not what, such as a time-out.

    The pipeline leaves it out of a stage's key, so changing it makes nothing again.
    """
    return dataclasses.field(default=default, metadata={"in_key": False})


class Config:
    """Base of the frozen dataclasses that configure something.

    A subclass is `@dataclass(frozen=True, kw_only=True)`, holds only str, int, float, bool, None,
    tuples, mappings and other configs, gives required fields no default, and raises `ConfigError`
    from `__post_init__` where values contradict each other. The attribute below is read by
    pydantic, which the pipeline validates YAML with: unknown keys and wrong types are refused.
    """

    tag: ClassVar[str]  # stable: it stands for the type in keys, so a renamed class keeps its tag

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}
