"""Writes the reference of the configuration from the code: `python -m pipelines.config.reference`.

The description of a setting is the comment on its line, and the example is the demo's value.
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
from pipelines.config.models import DecoderSection, PriorSection, UpsamplerSection
from pipelines.config.sections import PipelineConfig
from pipelines.data.rules import RULES, FilterRule
from unclip.kinds import SPECS

TARGET = Path(__file__).parents[2] / "docs" / "reference" / "config.md"
MAX_EXAMPLE = 60  # characters
ROLES = {PriorSection: "prior", DecoderSection: "decoder", UpsamplerSection: "upsampler"}

INTRODUCTION = """\
# Reference of the configuration

*Generated from the code by `make docs`; do not edit.*

One YAML file configures the whole pipeline. `unclip init` writes one to start from, and
`--set section.key=value` changes a single setting of a run. Unknown keys and wrong types are
errors that name the line. Relative paths in a file start from the file's folder.

A setting is part of the key of its stage: if it changes, the stage runs again, and so do the stages
that depend on it (`unclip plan` shows which). Settings marked † are not part of the key, because
they change how a result is made and not the result. Nor is the section `run` part of any key, or an
optional setting at its default.

`preset` (tiny, small, paper, karlo) fills in `kind` and `model` of the priors, the decoder and the
upsamplers, so a file needs to set only what differs. The last column shows the demo's value.
"""


def reference() -> str:
    """The whole page."""
    sections = _sections(PipelineConfig, "", load_config("demo"), seen={})
    return "\n".join([INTRODUCTION, *sections])


def _sections(kind: Any, path: str, value: Any, seen: dict[Any, str]) -> Iterator[str]:
    """The section of a class and its nested sections; `seen` maps a class to its first path."""
    if seen.setdefault(kind, path) != path and value is None:
        yield f"## {path}\n\nSame as [{seen[kind]}](#{_anchor(seen[kind])}).\n"
        return
    nested = list(_nested(kind, value))
    names = {name for name, *_ in nested}
    yield _table(kind, path, [f for f in dataclasses.fields(kind) if f.name not in names], value)
    for name, suffix, option, given in nested:
        inner = f"{path}.{name}" if path else name
        is_shown = isinstance(given, option)
        yield from _sections(option, inner + suffix, given if is_shown else None, seen)


def _nested(kind: Any, value: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """The fields that hold sections: name, what to add to the title, class, the demo's value."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, given = hints[field.name], getattr(value, field.name, None)
        options = _config_classes(hint)
        if kind in ROLES and field.name == "model":
            for spec in SPECS:
                if spec.role == ROLES[kind]:
                    yield field.name, f" (kind {spec.kind})", spec.config, given
        elif _is_mapping(hint) and typing.get_args(hint)[1] is FilterRule:
            for name, rule in RULES.items():
                title = f".{name}" if rule.entry is None else f".{name}.<{name.rstrip('s')}>"
                yield field.name, title, rule.entry or rule, (given or {}).get(name)
        elif _is_mapping(hint):
            first = next(iter((given or {}).values()), None)
            for option in _config_classes(typing.get_args(hint)[1]):
                yield field.name, ".<name>", option, first
        else:
            for option in options:
                yield field.name, f" ({option.tag})" if len(options) > 1 else "", option, given


def _table(kind: Any, path: str, fields: list[Any], value: Any) -> str:
    summary = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    lines = [f"## {path}", "", summary, ""] if path else []
    if not fields:
        return "\n".join(lines)
    hints, comments = typing.get_type_hints(kind), _comments(kind)
    lines += ["| key | type | meaning | demo |", "|---|---|---|---|"]
    for field in fields:
        mark = "" if field.metadata.get("in_key", True) else " †"
        optional = "" if _is_required(field) else " (optional)"
        meaning = comments.get(field.name, "").replace("|", "\\|")
        lines.append(
            f"| `{field.name}`{mark} | {_type_name(hints[field.name])}{optional} | {meaning} "
            f"| {_example(value, field.name)} |"
        )
    return "\n".join([*lines, ""])


def _anchor(title: str) -> str:
    """The address of a heading on the page."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _config_classes(hint: Any) -> list[Any]:
    """The configuration classes that a field may hold."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
    return []


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _example(value: Any, name: str) -> str:
    text = json.dumps(_plain(getattr(value, name, None))) if hasattr(value, name) else ""
    return f"`{text}`" if 0 < len(text) <= MAX_EXAMPLE else ""


def _plain(value: Any) -> Any:
    """A value without configuration classes."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _comments(kind: type) -> dict[str, str]:
    """Field → the comment on its line, in the class and its bases."""
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
    if _is_mapping(hint):
        return f"mapping to {_type_name(arguments[1])}"
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{TARGET}\n")
    TARGET.write_text(reference())
