"""Explains pydantic's errors: where, what was given, and a fix, in one line for each mistake."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from pipelines.config.files import Keys, RawConfig
from pipelines.config.models import ModelError
from pipelines.config.sections import PipelineConfig
from unclip.config import ConfigError
from unclip.extension import did_you_mean
from unclip.models import FrozenTextConfig, TextEncoderConfig

MAX_SHOWN = 5
FROZEN_TEXT, TRAINED_TEXT = FrozenTextConfig.__name__, TextEncoderConfig.__name__
# Tags of unions, which pydantic adds to error locations.
UNION_TAGS = ("pretrained", "trained", FROZEN_TEXT, TRAINED_TEXT, "str", "tuple[str, ...]")
MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")

Error = dict[str, Any]


def explain(error: ValidationError, raw: RawConfig) -> str:
    """The message of a `ConfigFileError`."""
    errors = _of_the_given_encoder(list(_flat(error, PipelineConfig, ())))
    lines = list(dict.fromkeys(_explain_one(e, raw) for e in errors))
    hidden = len(lines) - MAX_SHOWN
    more = [f"There are {hidden} more such errors."] if hidden > 0 else []
    return "\n".join([*lines[:MAX_SHOWN], *more])


def _flat(error: ValidationError, config: type, at: tuple[Any, ...]) -> typing.Iterator[Error]:
    """All errors with their location, and the class and location of the config around them."""
    for each in error.errors():
        place = (*at, *each["loc"])
        cause = (each.get("ctx") or {}).get("error")
        if isinstance(cause, ModelError):
            yield from _flat(cause.refused, cause.config, place)
        else:
            yield {**each, "loc": place, "config": config, "at": at}


def _of_the_given_encoder(errors: list[Error]) -> list[Error]:
    """The errors without those of the other kind of text encoder.

    Pydantic tries both kinds and reports the errors of both. Only the frozen kind has quick_gelu,
    so where that is missing, the file gives the trained kind.
    """
    trained = {
        e["loc"][:-2]
        for e in errors
        if e["loc"][-2:] == (FROZEN_TEXT, "quick_gelu") and e["type"] in MISSING
    }

    def is_given(place: tuple[Any, ...]) -> bool:
        kind = next((n for n, p in enumerate(place) if p in (FROZEN_TEXT, TRAINED_TEXT)), None)
        return kind is None or (place[kind] == TRAINED_TEXT) == (place[:kind] in trained)

    return [e for e in errors if is_given(e["loc"])]


def _explain_one(error: Error, raw: RawConfig) -> str:
    keys = _keys(error["loc"])
    where = f"{raw.where(keys)}: {'.'.join(keys) or 'the file'}"
    cause = (error.get("ctx") or {}).get("error")
    if isinstance(cause, ConfigError):
        return f"{where}: {str(cause).rstrip('.')}."
    if error["type"] in ("union_tag_not_found", "union_tag_invalid"):
        given = f"is {error['ctx']['tag']!r}" if "tag" in error["ctx"] else "is missing"
        known = error["ctx"].get("expected_tags") or "docs/reference/config.md lists them"
        return f"{where}.kind {given}; choose one of {known}."
    if error["type"] in UNKNOWN:
        known = _field_names(error["config"], error["loc"][len(error["at"]) : -1])
        return f"{where} is not a setting{_suggest(keys[-1], known)}"
    if error["type"] in MISSING:
        return f"{where} is missing and has no default; docs/reference/config.md describes it."
    return f"{where} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}."


def _keys(place: tuple[Any, ...]) -> Keys:
    return tuple(str(part) for part in place if str(part) not in UNION_TAGS)


def _suggest(name: str, known: Sequence[str]) -> str:
    close = did_you_mean(name, tuple(known))
    return close or (f"; there are {', '.join(known)}." if known else ".")


def _field_names(config: type, place: tuple[Any, ...]) -> list[str]:
    """The names of the settings at a location in a class; union tags select among its classes."""
    found: list[Any] = [config]
    for part in place:
        if part in UNION_TAGS:
            found = [each for each in found if part in _tags(each)] or found
        else:
            found = [member for each in found for member in _members(each, str(part))]
    sections = [each for each in found if dataclasses.is_dataclass(each)]
    return list(dict.fromkeys(f.name for each in sections for f in dataclasses.fields(each)))


def _tags(config: Any) -> tuple[str, ...]:
    """The tags that pydantic may give a class of a union: its name, and the values of `kind`."""
    hints = typing.get_type_hints(config) if dataclasses.is_dataclass(config) else {}
    return (getattr(config, "__name__", ""), *typing.get_args(hints.get("kind")))


def _members(config: Any, name: str) -> list[Any]:
    """The types that a field of a class, or a value of a mapping, may have."""
    if typing.get_origin(config) is Mapping:
        found = typing.get_args(config)[1]
    elif dataclasses.is_dataclass(config):
        found = typing.get_type_hints(config).get(name)
    else:
        return []
    if isinstance(found, types.UnionType) or typing.get_origin(found) is typing.Union:
        return list(typing.get_args(found))
    return [found]
