"""Presets: model settings for everything that the file does not set itself."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pipelines.config.files import ConfigFileError, RawConfig
from unclip import presets
from unclip.config import ConfigError
from unclip.extension import did_you_mean
from unclip.kinds import find_spec, spec_of
from unclip.kinds.spec import Role

PRESETS = {
    "tiny": presets.tiny,
    "small": presets.small,
    "paper": presets.paper,
    "karlo": presets.karlo,
}


def with_preset(raw: RawConfig) -> dict[str, Any]:
    """The file's values, with `kind` and `model` of each section filled in where they are missing.

    Every prior after the first also inherits the first one's training settings. An upsampler that
    the preset does not have gets the model of the preset's last upsampler. Baselines inherit from
    the decoder. The file's own values take precedence.
    """
    name = raw.values.get("preset")
    if name not in PRESETS:
        known = tuple(PRESETS)
        raise ConfigFileError(
            f"{raw.where(('preset',))}: preset is {name!r}"
            f"{did_you_mean(str(name), known) or ';'} choose one of {', '.join(known)}, whose "
            "model sizes the file can then change."
        )
    preset = PRESETS[name]()
    values = dict(raw.values)
    values["priors"] = _priors(raw, name, preset)
    values["decoder"] = _filled("decoder", name, preset.decoder, values.get("decoder"))
    values["upsamplers"] = _upsamplers(raw, name, preset)
    if isinstance(raw.values.get("baselines"), dict):
        values["baselines"] = _baselines(raw.values["baselines"], values["decoder"])
    values["evaluate"] = _without_sampling_of(_removed(raw), raw.values.get("evaluate"))
    return values


def _priors(raw: RawConfig, name: str, preset: presets.Preset) -> Any:
    given = raw.values.get("priors")
    if not isinstance(given, dict) or not given:
        return given
    first, *others = given
    sections = {first: given[first]}
    for other in others:
        shared = dict(given[first]) if isinstance(given[first], dict) else {}
        for own in ("kind", "model", "init_from"):
            shared.pop(own, None)
        sections[other] = _merge(shared, given[other])
    return {n: _filled("prior", name, preset.prior, section) for n, section in sections.items()}


def _baselines(given: Mapping[str, Any], decoder: Any) -> Any:
    shared = {k: v for k, v in decoder.items() if k != "init_from"}
    return {name: _merge(shared, section or {}) for name, section in given.items()}


def _upsamplers(raw: RawConfig, name: str, preset: presets.Preset) -> Any:
    given = raw.values.get("upsamplers")
    if not isinstance(given, dict):
        return given
    last = list(preset.upsamplers.values())[-1]
    removed = _removed(raw)
    return {
        upsampler: _filled("upsampler", name, preset.upsamplers.get(upsampler, last), section)
        for upsampler, section in given.items()
        if upsampler not in removed
    }


def _removed(raw: RawConfig) -> set[str]:
    """The upsamplers that are null, as `--set upsamplers.upsampler_2=null` makes them."""
    given = raw.values.get("upsamplers")
    return {n for n, s in given.items() if s is None} if isinstance(given, dict) else set()


def _without_sampling_of(upsamplers: set[str], evaluate: Any) -> Any:
    """The section `evaluate` without the sampling settings of these upsamplers."""
    sampling = evaluate.get("sampling") if isinstance(evaluate, dict) else None
    if not isinstance(sampling, dict) or not isinstance(sampling.get("upsamplers"), dict):
        return evaluate
    kept = {n: s for n, s in sampling["upsamplers"].items() if n not in upsamplers}
    return {**evaluate, "sampling": {**sampling, "upsamplers": kept}}


def _filled(role: Role, preset: str, default: Any, section: Any) -> Any:
    """A section with the preset's kind and model, overridden by its own values."""
    if section is not None and not isinstance(section, dict):
        return section
    given = section or {}
    kind = given.get("kind", None if role == "prior" else spec_of(default).kind)
    if kind is None:
        return given  # a prior has no default kind; validation says so
    return _merge({"kind": kind, "model": _model(role, kind, preset, default)}, given)


def _model(role: Role, kind: Any, preset: str, default: Any) -> dict[str, Any]:
    if kind == spec_of(default).kind:
        return _plain(default)
    try:
        made = find_spec(role, str(kind)).presets.get(preset)
    except ConfigError:
        return {}  # the kind is invalid, which validation reports
    return _plain(made()) if made else {}


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as plain values, like those that YAML gives."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _merge(base: Any, override: Any) -> Any:
    """Merge mappings key by key; any other `override` replaces `base`."""
    if not isinstance(base, Mapping) or not isinstance(override, Mapping):
        return override
    merged = dict(base)
    for key, value in override.items():
        merged[key] = _merge(base[key], value) if key in base else value
    return merged
