"""Strict reading of JSON settings: no setting is ignored by mistake."""

import json
from pathlib import Path
from typing import Any

from unclip.interop.errors import InteropError

_NEVER: Any = object()


class Settings:
    """Settings of one component. Each is taken once; any that remain are an error.

    All methods raise `InteropError`. Keys that start with an underscore are ignored.
    """

    def __init__(self, values: dict[str, Any], *, where: str) -> None:
        self.where = where
        self._left = {key: value for key, value in values.items() if not key.startswith("_")}

    @classmethod
    def read(cls, file: Path) -> "Settings":
        """The settings in a JSON file."""
        return cls(read_json(file), where=str(file))

    def integer(self, key: str, *, default: int = _NEVER) -> int:
        """Take an integer."""
        return int(self._typed(key, int, default))

    def number(self, key: str, *, default: float = _NEVER) -> float:
        """Take a number."""
        return float(self._typed(key, (int, float), default))

    def integers(self, key: str) -> tuple[int, ...]:
        """Take a list of integers."""
        return self._tuple(key, int)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Take a list of floats."""
        return self._tuple(key, float)

    def edge(self, key: str) -> int:
        """Take the side of square images: an integer, or a mapping whose values all equal it."""
        value = self._left.pop(key, None)
        sides = set(value.values()) if isinstance(value, dict) else {value}
        if len(sides) != 1 or not isinstance(side := sides.pop(), int):
            raise InteropError(f"{self.where}: {key}={value!r} is not the side of a square")
        return side

    def words(self, key: str) -> tuple[str, ...]:
        """Take a list of strings."""
        return self._tuple(key, str)

    def expect(self, wanted: dict[str, Any], *, stated: tuple[str, ...] = ()) -> None:
        """Take these settings and refuse other values; those in `stated` must be present."""
        for key, value in wanted.items():
            if key in self._left:
                given = self._left.pop(key)
                if given != value:
                    raise InteropError(
                        f"{self.where}: {key}={given!r}, but our networks support only {value!r}"
                    )
            elif key in stated:
                raise self._missing(key)

    def ignore(self, *keys: str) -> None:
        """Drop settings that have no effect in models of this layout."""
        for key in keys:
            self._left.pop(key, None)

    def finish(self) -> None:
        """Refuse settings that were not taken, unless they are null or false."""
        unknown = {key: value for key, value in self._left.items() if value not in (None, False)}
        if unknown:
            raise InteropError(
                f"{self.where}: {', '.join(f'{k}={v!r}' for k, v in sorted(unknown.items()))}: "
                "not supported, so the model may differ from Karlo; give a Karlo checkpoint"
            )

    def _typed(self, key: str, kind: Any, default: Any) -> Any:
        value = self._left.pop(key, default)
        if value is _NEVER:
            raise self._missing(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InteropError(f"{self.where}: {key}={value!r} is not a number")
        return value

    def _tuple(self, key: str, kind: type) -> tuple[Any, ...]:
        if key not in self._left:
            raise self._missing(key)
        value = self._left.pop(key)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise InteropError(f"{self.where}: {key}={value!r} is not a list of {kind.__name__}")
        return tuple(value)

    def _missing(self, key: str) -> InteropError:
        return InteropError(f"{self.where} has no {key}; take the file from a complete checkpoint")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `InteropError` if there is none."""
    if not file.is_file():
        raise InteropError(f"{file} does not exist; give the folder of a complete Karlo pipeline")
    try:
        content = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise InteropError(f"{file} is not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise InteropError(f"{file} holds {type(content).__name__}, not settings")
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write settings in the format of diffusers and transformers."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
