"""Keys: a digest of everything that a result depends on, and of nothing else.

A value's canonical form is plain JSON. A dataclass enters by its stable `tag` and by the fields
that differ from their defaults, so renaming a class or adding a field with a default changes no
key. Fields declared with `unclip.config.not_in_key` are left out. The order of a mapping counts.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from pipelines.core.errors import PipelineError

KEY_DIGITS = 16  # of sha256's 64: short enough to read, long enough not to collide


class FingerprintError(PipelineError):
    """A field holds a value without a stable form."""


def canonical(value: object, *, where: str) -> Any:
    """The JSON form of a frozen value; `where` names the field in errors.

    Raises `FingerprintError` for values that may change or have no stable form: lists, sets,
    functions, open files, floats that are not finite.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, tuple):
        return [canonical(v, where=f"{where}.{i}") for i, v in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {k: canonical(v, where=f"{where}.{k}") for k, v in value.items()}
    tag = getattr(value, "tag", None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and isinstance(tag, str):
        return {"type": tag, **content(value, where=where)}
    raise FingerprintError(
        f"{where} holds {value!r} of type {type(value).__name__}, which has no stable form to make "
        "a key from. Use None, bool, int, finite float, str, tuple, mapping, or a frozen dataclass "
        "with a class attribute `tag`. A stage can be a field, or an item of a tuple or mapping."
    )


def content(value: Any, *, where: str, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The canonical fields of a dataclass that are in the key and differ from their defaults."""
    return {
        field.name: canonical(getattr(value, field.name), where=f"{where}.{field.name}")
        for field in sorted(dataclasses.fields(value), key=lambda field: field.name)
        if field.name not in leave_out
        and field.metadata.get("in_key", True)
        and not _is_default(field, getattr(value, field.name))
    }


def _is_default(field: dataclasses.Field[Any], value: object) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(field.default == value)
    if field.default_factory is not dataclasses.MISSING:
        return bool(field.default_factory() == value)
    return False


def digest(description: Any) -> str:
    """The key: the first hex digits of the sha256 of the description's compact JSON."""
    text = json.dumps(description, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def differences(old: Any, new: Any, *, path: str = "") -> list[str]:
    """What changed between two descriptions, field by field: "filter.min_side: 64 → 96"."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for name in [*old, *(n for n in new if n not in old)]:
            inner = f"{path}.{name}" if path else name
            if name not in new:
                found.append(f"{inner}: removed (was {_short(old[name])})")
            elif name not in old:
                found.append(f"{inner}: new ({_short(new[name])})")
            else:
                found += differences(old[name], new[name], path=inner)
        if not found and list(old) != list(new):
            found.append(f"{path} in another order: {', '.join(old)} → {', '.join(new)}")
        return found
    same = json.dumps(old) == json.dumps(new)  # like the digest, JSON distinguishes True from 1
    return [] if same else [f"{path}: {_short(old)} → {_short(new)}"]


def _short(value: Any, limit: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"
