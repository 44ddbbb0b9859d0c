"""What every typed configuration of the project shares."""

from typing import Any, ClassVar


class UnclipError(ValueError):
    """Base of what whoever gives the input can mend: what, where, what was given, the way out."""


class ConfigError(UnclipError):
    """A setting that cannot work; the message says where it is, what was given and the way out."""


class Config:
    """Base of the frozen dataclasses that configure things.

    A subclass is `@dataclass(frozen=True, kw_only=True)`, holds only str, int, float, bool, None,
    tuples, mappings and other configs, gives required fields no default, and raises `ConfigError`
    from `__post_init__` where values contradict each other. The attribute below is read by
    pydantic, which the pipeline validates YAML with: unknown keys and wrong types are refused.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}
