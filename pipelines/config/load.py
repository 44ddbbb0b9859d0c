"""Reads a YAML file and `--set` overrides into a `PipelineConfig`, or says which line is wrong."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pipelines.config.sections import PipelineConfig
from pipelines.core.errors import PipelineError
from unclip import presets
from unclip.config import ConfigError
from unclip.extension import did_you_mean
from unclip.models import FrozenTextConfig, TextEncoderConfig

CONFIGS = Path(__file__).parent / "packaged"
PRESETS = {"tiny": presets.tiny, "small": presets.small, "paper": presets.paper}
AR_PRIORS = {
    "tiny": presets.tiny_ar_prior,
    "small": presets.small_ar_prior,
    "paper": presets.paper_ar_prior,
}
FROZEN_TEXT, TRAINED_TEXT = FrozenTextConfig.__name__, TextEncoderConfig.__name__
# Pydantic puts them into places.
KINDS = (
    *("pretrained", "trained", "diffusion", "autoregressive", "paper", "karlo"),
    *(FROZEN_TEXT, TRAINED_TEXT),
)

MERGE = "tag:yaml.org,2002:merge"  # the key "<<"
Path_ = tuple[str, ...]  # keys from the top of the file down


class ConfigFileError(PipelineError):
    """The configuration cannot be used."""


def find_config(name: str) -> Path:
    """A file by its path, or a packaged one by its name: demo, small, paper, karlo."""
    path = Path(name)
    packaged = CONFIGS / f"{name}.yaml"
    if path.is_file():
        return path
    if packaged.is_file():
        return packaged
    packaged_names = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
    files = sorted(str(p) for p in path.parent.glob("*.y*ml"))
    hint = did_you_mean(name, (*packaged_names, *files)) or "."
    raise ConfigFileError(
        f"There is no configuration {name!r}{hint} Give "
        f"the path of a YAML file or a packaged name: {', '.join(packaged_names)}. "
        "`unclip init` writes a file to start from."
    )


def load_config(name: str, overrides: Sequence[str] = ()) -> PipelineConfig:
    """The validated configuration; raises `ConfigFileError` with the line and the way out."""
    path = find_config(name)
    raw, lines = _read_yaml(path)
    for override in overrides:
        key, value = _parse_override(override)
        _assign(raw, key, value, override)
    merged = _with_preset(raw, path)
    try:
        return TypeAdapter(PipelineConfig).validate_json(json.dumps(merged))
    except ValidationError as error:
        raise ConfigFileError(_explain(error, path, lines)) from error
    except TypeError as error:  # a YAML date, say, is no JSON
        raise ConfigFileError(f"{path}: {error}. Put the value into quotes.") from error


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Path_, int]]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"{path} cannot be read as text: {error}.") from error
    try:
        raw = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigFileError(f"{path} is no valid YAML: {_on_one_line(error)}.") from error
    if not isinstance(raw, dict):
        raise ConfigFileError(f"{path} holds no sections. `unclip init` writes an example.")
    return raw, dict(_line_numbers(node, ()))


def _on_one_line(error: yaml.YAMLError) -> str:
    """What PyYAML spreads over several lines: the problem and its place."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem}, in line {mark.line + 1}, column {mark.column + 1}"


def _line_numbers(node: yaml.Node | None, at: Path_) -> typing.Iterator[tuple[Path_, int]]:
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


def _parse_override(text: str) -> tuple[Path_, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigFileError(f"--set {text!r} is not of the form section.key=value.")
    try:
        return tuple(key.strip().split(".")), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigFileError(
            f"--set {text!r}: the value is no valid YAML: {_on_one_line(error)}."
        ) from error


def _assign(raw: dict[str, Any], key: Path_, value: Any, text: str) -> None:
    at = raw
    for name in key[:-1]:
        at = at.setdefault(name, {})
        if not isinstance(at, dict):
            raise ConfigFileError(f"--set {text!r}: {name} is a value, not a section.")
    at[key[-1]] = value


def _with_preset(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Put the preset's models below what the file says of them."""
    name = raw.get("preset")
    if name not in (*PRESETS, "karlo"):
        raise ConfigFileError(
            f"{path}: preset is {name!r}; choose one of {', '.join(PRESETS)}, karlo, whose model "
            "sizes the file can then change."
        )
    models = _preset_models(name)
    sections = {m: raw.get(m) or {} for m in models if m != "upsampler_2"}
    if "upsampler_2" in models:
        sections["upsampler_2"] = raw.get("upsampler_2", {})
    if raw.get("second_prior") is not None:
        sections["second_prior"] = _like_the_first(raw)
        models["second_prior"] = models["prior"]
    for section, given in sections.items():
        _check_kind(section, given, name, path)
    for prior in sections.keys() & {"prior", "second_prior"}:
        given = sections[prior]
        if isinstance(given, dict) and given.get("kind") == "autoregressive":
            models[prior] = {"model": _plain(AR_PRIORS[name]())}
    return {"upsampler_2": None, **raw, **{m: _merge(models[m], s) for m, s in sections.items()}}


def _preset_models(name: str) -> dict[str, Any]:
    """What the preset says of each section."""
    if name == "karlo":
        models = _plain(presets.karlo())
        models["upsampler_1"] = models.pop("upsampler")
        return {m: {"kind": "karlo", "model": model} for m, model in models.items()}
    models = _plain(PRESETS[name]())
    kinds: dict[str, Any] = {m: {} if m == "prior" else {"kind": "paper"} for m in models}
    return {m: {**kinds[m], "model": model} for m, model in models.items()}


def _check_kind(section: str, given: Any, preset: str, path: Path) -> None:
    """Karlo's models go together, because its image embeddings have a length of their own."""
    kind = given.get("kind") if isinstance(given, dict) else None
    if kind is not None and (kind == "karlo") != (preset == "karlo"):
        raise ConfigFileError(
            f"{path}: {section}.kind is {kind!r}, but preset is {preset!r}; all models are of "
            "kind karlo, with preset karlo, or none is."
        )


def _like_the_first(raw: Mapping[str, Any]) -> Any:
    """The second prior, trained as the first is where the file says nothing else."""
    first = raw.get("prior")
    shared = dict(first) if isinstance(first, dict) else {}
    for own in ("kind", "model", "init_from"):
        shared.pop(own, None)
    return _merge(shared, raw["second_prior"])


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as YAML would give it."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _merge(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {
        k: _merge(below[k], above[k]) if k in below and k in above else above.get(k, below.get(k))
        for k in (*below, *(k for k in above if k not in below))
    }


def _explain(error: ValidationError, path: Path, lines: Mapping[Path_, int]) -> str:
    """One paragraph: each place with its line, what is wrong, and the way out."""
    errors = _of_the_kind_that_is_meant([dict(e) for e in error.errors()])
    message = [_explain_one(e, path, lines) for e in errors[:5]]
    more = len(errors) - len(message)
    return " ".join(message) + (f" There are {more} more such errors." if more > 0 else "")


def _of_the_kind_that_is_meant(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those of the other kind of text encoder; only the frozen one has quick_gelu."""
    missing = {"missing", "missing_argument", "missing_keyword_only_argument"}
    trained = {
        e["loc"][:-2]
        for e in errors
        if e["loc"][-2:] == (FROZEN_TEXT, "quick_gelu") and e["type"] in missing
    }

    def is_meant(place: tuple[Any, ...]) -> bool:
        kind = next((n for n, p in enumerate(place) if p in (FROZEN_TEXT, TRAINED_TEXT)), None)
        return kind is None or (place[kind] == TRAINED_TEXT) == (place[:kind] in trained)

    return [e for e in errors if is_meant(e["loc"])]


def _explain_one(error: dict[str, Any], path: Path, lines: Mapping[Path_, int]) -> str:
    place = tuple(str(p) for p in error["loc"] if str(p) not in KINDS)
    line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
    where = f"{path}{f', line {line}' if line else ''}: {'.'.join(place) or 'the file'}"
    cause = (error.get("ctx") or {}).get("error")
    if isinstance(cause, ConfigError):
        return f"{where}: {str(cause).rstrip('.')}."
    if error["type"] in ("union_tag_not_found", "union_tag_invalid"):
        given = f"is {error['ctx']['tag']!r}" if "tag" in error["ctx"] else "is missing"
        known = error["ctx"].get("expected_tags") or "docs/reference/config.md lists them"
        return f"{where}.kind {given}; choose one of {known}."
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where} is not a setting{_suggest(place)}"
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where} is missing and has no default; docs/reference/config.md describes it."
    return f"{where} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}."


def _suggest(place: Path_) -> str:
    names = _field_names(PipelineConfig, place[:-1])
    close = difflib.get_close_matches(place[-1], names, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(names)}." if names else "."


def _field_names(kind: Any, place: Path_) -> list[str]:
    """The fields of the section at a place."""
    for name in place:
        options = [kind, *typing.get_args(kind)] if not dataclasses.is_dataclass(kind) else [kind]
        hints = [typing.get_type_hints(o) for o in options if dataclasses.is_dataclass(o)]
        kind = next((h[name] for h in hints if name in h), None)
        if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
            kind = next((a for a in typing.get_args(kind) if dataclasses.is_dataclass(a)), kind)
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
