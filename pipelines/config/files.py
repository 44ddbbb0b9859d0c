"""A YAML file and `--set` overrides as plain values, with the origin of each."""

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines.core.errors import PipelineError
from unclip.extension import did_you_mean, is_import

log = logging.getLogger(__name__)

PACKAGED = Path(__file__).parent / "packaged"
MERGE = "tag:yaml.org,2002:merge"  # the key "<<"
Keys = tuple[str, ...]  # from the top of the file down

# Settings that hold a path, which is relative to the folder of the user's file.
PATHS = (
    r"source\.urls",
    r"filter\.rules\.deny\.(hosts|keys|hashes)",
    r"run\.store",
    r"clip\.source\.pretrained",
    r"(priors|upsamplers|baselines)\.[^.]+\.init_from",
    r"decoder\.init_from",
)
NAMES = r"source\.urls|clip\.source\.pretrained"  # those that may be a name, such as demo


class ConfigFileError(PipelineError):
    """The configuration cannot be used. The message has one line for each mistake."""


@dataclass(frozen=True)
class RawConfig:
    """The file's values, not yet validated."""

    name: str  # as the user gave it
    values: dict[str, Any]
    lines: Mapping[Keys, int]  # of each key in the file
    overrides: Mapping[Keys, str] = field(default_factory=dict)  # the `--set` that gave a value

    def where(self, keys: Keys) -> str:
        """The origin to name in an error: a flag, or a line of the file."""
        for given, flag in self.overrides.items():
            if keys[: len(given)] == given or given[: len(keys)] == keys:
                return f"--set {flag}"
        prefixes = (keys[:n] for n in range(len(keys), 0, -1))
        line = next((self.lines[prefix] for prefix in prefixes if prefix in self.lines), None)
        return f"{self.name}, line {line}" if line else self.name


def find_config(name: str) -> Path:
    """A file by its path, or a packaged one by its name, such as demo or paper."""
    path, packaged = Path(name), PACKAGED / f"{name}.yaml"
    if path.is_file():
        return path
    if packaged.is_file():
        return packaged
    known = tuple(sorted(p.stem for p in PACKAGED.glob("*.yaml")))
    files = tuple(sorted(str(p) for p in path.parent.glob("*.y*ml")))
    raise ConfigFileError(
        f"There is no configuration {name!r}{did_you_mean(name, (*known, *files)) or '.'} Give the "
        f"path of a YAML file, or one of the packaged ones: {', '.join(known)}. `unclip init` "
        "writes one to start from."
    )


def read_config(name: str, overrides: Sequence[str]) -> RawConfig:
    """Read the file and apply the overrides, each "section.key=value"."""
    path = find_config(name)
    values, lines = _read_yaml(path)
    if path.parent != PACKAGED:
        _resolve_paths(values, path.absolute().parent, ())
        _import_from(path.absolute().parent)
    flags = {}
    for text in overrides:
        keys, value = _parse_override(text)
        _assign(values, keys, value, text)
        flags[keys] = text
    log.debug("read %s with %d overrides", path, len(flags))
    return RawConfig(str(path), values, lines, flags)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Keys, int]]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"{path} cannot be read as text: {error}.") from error
    try:
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigFileError(f"{path} is not valid YAML: {_on_one_line(error)}.") from error
    if not isinstance(values, dict):
        raise ConfigFileError(f"{path} has no sections. `unclip init` writes an example.")
    return values, dict(_line_numbers(node, ()))


def _on_one_line(error: yaml.YAMLError) -> str:
    """The problem and its position, which PyYAML spreads over several lines."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem}, in line {mark.line + 1}, column {mark.column + 1}"


def _line_numbers(node: yaml.Node | None, at: Keys) -> Iterator[tuple[Keys, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == MERGE:
                yield from _line_numbers(value, at)
                continue
            inner = (*at, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _line_numbers(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, str(index)), value.start_mark.line + 1
            yield from _line_numbers(value, (*at, str(index)))


def _resolve_paths(values: Any, folder: Path, at: Keys) -> None:
    """Make relative paths absolute; they start from the folder of the file that has them."""
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        keys = (*at, str(key))
        dotted = ".".join(keys)
        if isinstance(value, str) and any(re.fullmatch(p, dotted) for p in PATHS):
            may_be_name = re.fullmatch(NAMES, dotted) is not None
            values[key] = _absolute(value, folder, may_be_name=may_be_name)
        else:
            _resolve_paths(value, folder, keys)


def _absolute(value: str, folder: Path, *, may_be_name: bool) -> str:
    """A path relative to the file's folder, made absolute; URLs, names and "module:name" stay."""
    has_sign = any(sign in value for sign in "./\\")
    is_name = may_be_name and not has_sign and not (folder / value).exists()
    if "://" in value or is_import(value) or is_name:
        return value
    return str((folder / Path(value).expanduser()).resolve())


def _import_from(folder: Path) -> None:
    """Make modules in the file's folder importable, for "module:name" in the file.

    PYTHONPATH does the same for the workers of a Ray that is started later on this machine.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(folder) not in inherited:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, inherited)])


def _parse_override(text: str) -> tuple[Keys, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigFileError(f"--set {text!r} is not of the form section.key=value.")
    try:
        return tuple(key.strip().split(".")), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigFileError(
            f"--set {text!r}: the value is not valid YAML: {_on_one_line(error)}."
        ) from error


def _assign(values: dict[str, Any], keys: Keys, value: Any, text: str) -> None:
    at = values
    for name in keys[:-1]:
        at = at.setdefault(name, {})
        if not isinstance(at, dict):
            raise ConfigFileError(f"--set {text!r}: {name} is a value, not a section.")
    at[keys[-1]] = value
