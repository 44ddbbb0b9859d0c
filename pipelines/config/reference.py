"""Writes the reference of the configuration from the code: `python -m pipelines.config.reference`.

A field's description is the comment on its line; its example is the value that the demo has.
"""

import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.config.load import load_config
from pipelines.config.sections import PipelineConfig
from pipelines.data.rules import RULES, FilterRule

TARGET = Path(__file__).parents[2] / "docs" / "reference" / "config.md"

LONGEST_EXAMPLE = 60  # characters

INTRODUCTION = """\
# Reference of the configuration

*Made from the code by `make docs`; do not edit.*

One YAML file configures the whole pipeline. `unclip init` writes one to start from, and
`--set section.key=value` changes a single setting of a run. Unknown keys and wrong types are
refused with their line. Everything but `run` is part of what is made: a changed setting reruns just
the stages that depend on it, which `unclip plan` shows beforehand. `preset` (tiny, small, paper,
karlo) fills in every `model` section, so a file needs to name only what it changes there.

The last column is the value that the demo has.
"""


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for section in _sections(PipelineConfig, "", load_config("demo"), {}):
        parts.append(section)
    return "\n".join(parts)


def _sections(kind: Any, path: str, values: Any, told: dict[Any, str]) -> Iterator[str]:
    """The section of a class and those within; told: class → the first path it was told of."""
    if told.setdefault(kind, path) != path and values is None:
        yield f"## {path}\n\nAs [{told[kind]}](#{_anchor(told[kind])}).\n"
        return
    hints = typing.get_type_hints(kind)
    own, nested = [], []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if typing.get_origin(hint) is Mapping:
            own.append(field)
            nested += [(name, c, False) for name, c in _entries(field.name, hint)]
            continue
        options = _configs(hint)
        if options:
            nested += [(field.name, option, len(options) > 1) for option in options]
        else:
            own.append(field)
    yield _table(kind, path, own, hints, values)
    for name, option, is_choice in nested:
        inner = f"{path}.{name}" if path else name
        given = _given(values, name)
        title = f"{inner} ({option.__name__})" if is_choice else inner
        yield from _sections(option, title, given if isinstance(given, option) else None, told)


def _entries(field: str, hint: Any) -> list[tuple[str, Any]]:
    """The titles and configuration classes of the values that a mapping may hold."""
    value = typing.get_args(hint)[1]
    if value is FilterRule:
        return [(f"{field}.{name}", rule) for name, rule in RULES.items()]
    return [(f"{field}.<stage>", config) for config in _configs(value)]


def _given(values: Any, name: str) -> Any:
    """The value of a field, or "field.entry" of a mapping; None where there is none."""
    field, _, entry = name.partition(".")
    value = getattr(values, field, None)
    return value.get(entry) if entry and isinstance(value, Mapping) else value


def _anchor(title: str) -> str:
    """Where a heading is found on the page."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _configs(hint: Any) -> list[Any]:
    """The configuration classes that a field may hold."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
    return []


def _table(
    kind: Any,
    path: str,
    fields: list[Any],
    hints: Mapping[str, Any],
    values: Any,
) -> str:
    told = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    lines = [f"## {path}", "", told, ""] if path else []
    if not fields:
        return "\n".join(lines)
    comments = _comments(kind)
    lines += ["| key | type | meaning | demo |", "|---|---|---|---|"]
    for field in fields:
        demo = _example(values, field.name)
        optional = "" if _is_required(field) else " (optional)"
        meaning = comments.get(field.name, "").replace("|", "\\|")
        lines.append(
            f"| `{field.name}` | {_type_name(hints[field.name])}{optional} | {meaning} | {demo} |"
        )
    return "\n".join([*lines, ""])


def _example(values: Any, name: str) -> str:
    text = json.dumps(_plain(getattr(values, name))) if values is not None else ""
    return f"`{text}`" if 0 < len(text) <= LONGEST_EXAMPLE else ""


def _plain(value: Any) -> Any:
    """Without configuration classes."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _comments(kind: type) -> dict[str, str]:
    """Field → the comment behind it, of the class and those that it extends."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            source = inspect.getsource(base)
            found.update(re.findall(r"^    (\w+): [^#\n]+#\s*(.+)$", source, flags=re.MULTILINE))
    return found


def _is_required(field: Any) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " \\| ".join(f"`{a}`" for a in arguments)
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return " or ".join(_type_name(a) for a in arguments)
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping to {_type_name(arguments[1])}"
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{TARGET}\n")
    TARGET.write_text(reference())
