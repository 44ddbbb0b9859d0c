"""Changes of sampling settings by name, such as `prior_guidance_scale=4.0`.

A plain name is a setting of the decoder, which draws the image. The prefixes `prior_`, `decoder_`
and `upsampler_` name the others; `upsampler_` sets all upsamplers.
"""

from dataclasses import asdict, fields
from typing import Any

from unclip.checkpoint import CheckpointError, config_from_json
from unclip.config import ConfigError
from unclip.extension import did_you_mean
from unclip.generation.config import (
    DecoderSampling,
    PriorSampling,
    SamplingConfig,
    UpsamplerSampling,
)

SECTIONS = {"prior": PriorSampling, "decoder": DecoderSampling, "upsampler": UpsamplerSampling}


def setting_names() -> tuple[str, ...]:
    """All names that `with_overrides` takes."""
    plain = [field.name for field in fields(DecoderSampling)]
    others = [f"{name}_{f.name}" for name, kind in SECTIONS.items() for f in fields(kind)]
    return (*plain, *others, "eta", "bf16")


def with_overrides(sampling: SamplingConfig, **changes: Any) -> SamplingConfig:
    """The settings with some of them changed; raises `ConfigError` for a wrong name or value."""
    content = asdict(sampling)
    for name, value in changes.items():
        if name not in setting_names():
            raise ConfigError(
                f"there is no sampling setting {name!r}{did_you_mean(name, setting_names())}; "
                f"there are {', '.join(setting_names())}"
            )
        _set(content, name, value)
    try:
        return config_from_json(SamplingConfig, content, where="sampling")
    except CheckpointError as error:
        raise ConfigError(f"{error}; give a value of that type") from error


def _set(content: dict[str, Any], name: str, value: Any) -> None:
    section, _, field = name.partition("_")
    if name in ("eta", "bf16"):
        content[name] = value
    elif section == "upsampler":
        for upsampler in content["upsamplers"].values():
            upsampler[field] = value
    elif section in SECTIONS:
        content[section][field] = value
    else:
        content["decoder"][name] = value
