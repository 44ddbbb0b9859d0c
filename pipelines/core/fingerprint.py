"""Keys: what a stage is, as a digest of everything that its result follows from.

A value's canonical form is plain JSON. Values that have no stable form (lists and sets, which may
change; functions; open files; floats that are not numbers) are refused rather than guessed at.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from pipelines.core.errors import PipelineError

KEY_DIGITS = 16  # of sha256's 64: short enough to read, far too many to collide


class FingerprintError(PipelineError):
    """A field holds a value without a stable form."""


def canonical(value: object, *, where: str) -> Any:
    """The JSON form of a frozen value; `where` names the field in the error."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, tuple):
        return [canonical(v, where=f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {k: canonical(value[k], where=f"{where}.{k}") for k in sorted(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: canonical(getattr(value, f.name), where=f"{where}.{f.name}")
            for f in dataclasses.fields(value)
            if f.compare  # what equality passes over is no part of the key either
        }
        return {"type": type(value).__name__, **fields}
    raise FingerprintError(
        f"{where} holds {value!r} of type {type(value).__name__}, which has no stable form to make "
        "a key from. Use None, bool, int, finite float, str, tuple, mapping or a frozen dataclass."
    )


def digest(description: Any) -> str:
    """The key: the first hex digits of the sha256 of the description's compact, sorted JSON."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def differences(old: Any, new: Any, *, path: str = "") -> list[str]:
    """What changed between two descriptions, field by field: "filter.min_side: 64 → 96"."""
    if old == new:
        return []
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
        return found
    return [f"{path}: {_short(old)} → {_short(new)}"]


def _short(value: Any, limit: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"
