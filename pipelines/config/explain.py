"""What pydantic refuses, in words: where, what was given, and a fix; one line for each mistake."""

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
UNION_TAGS = ("pretrained", "trained", FROZEN_TEXT, TRAINED_TEXT)
MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")

Error = dict[str, Any]


def explain(error: ValidationError, raw: RawConfig) -> str:
    """The message of a `ConfigFileError`."""
    errors = _of_the_meant_encoder(list(_flat(error, PipelineConfig, ())))
    lines = list(dict.fromkeys(_explain_one(e, raw) for e in errors))
    hidden = len(lines) - MAX_SHOWN
    more = [f"There are {hidden} more such errors."] if hidden > 0 else []
    return "\n".join([*lines[:MAX_SHOWN], *more])


def _flat(error: ValidationError, config: type, at: tuple[Any, ...]) -> typing.Iterator[Error]:
    """All errors with their place, and the class and place of the model that they are in."""
    for each in error.errors():
        place = (*at, *each["loc"])
        cause = (each.get("ctx") or {}).get("error")
        if isinstance(cause, ModelError):
            yield from _flat(cause.refused, cause.config, place)
        else:
            yield {**each, "loc": place, "config": config, "at": at}


def _of_the_meant_encoder(errors: list[Error]) -> list[Error]:
    """Without the errors of the other kind of text encoder; only the frozen one has quick_gelu."""
    trained = {
        e["loc"][:-2]
        for e in errors
        if e["loc"][-2:] == (FROZEN_TEXT, "quick_gelu") and e["type"] in MISSING
    }

    def is_meant(place: tuple[Any, ...]) -> bool:
        kind = next((n for n, p in enumerate(place) if p in (FROZEN_TEXT, TRAINED_TEXT)), None)
        return kind is None or (place[kind] == TRAINED_TEXT) == (place[:kind] in trained)

    return [e for e in errors if is_meant(e["loc"])]


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
        known = _field_names(error["config"], _keys(error["loc"][len(error["at"]) : -1]))
        return f"{where} is not a setting{_suggest(keys[-1], known)}"
    if error["type"] in MISSING:
        return f"{where} is missing and has no default; docs/reference/config.md describes it."
    return f"{where} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}."


def _keys(place: tuple[Any, ...]) -> Keys:
    return tuple(str(part) for part in place if str(part) not in UNION_TAGS)


def _suggest(name: str, known: Sequence[str]) -> str:
    close = did_you_mean(name, tuple(known))
    return close or (f"; there are {', '.join(known)}." if known else ".")


def _field_names(kind: Any, keys: Keys) -> list[str]:
    """The settings that the section at a place has."""
    for name in keys:
        kind = _kind_of(kind, name)
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def _kind_of(kind: Any, name: str) -> Any:
    """The class of a section's field, or of a mapping's value."""
    if typing.get_origin(kind) is Mapping or typing.get_origin(kind) is typing.get_origin(
        Mapping[str, int]
    ):
        return typing.get_args(kind)[1]
    options = [kind, *typing.get_args(kind)] if not dataclasses.is_dataclass(kind) else [kind]
    hints = [typing.get_type_hints(o) for o in options if dataclasses.is_dataclass(o)]
    found = next((h[name] for h in hints if name in h), None)
    if isinstance(found, types.UnionType) or typing.get_origin(found) is typing.Union:
        return next((a for a in typing.get_args(found) if dataclasses.is_dataclass(a)), found)
    return found
