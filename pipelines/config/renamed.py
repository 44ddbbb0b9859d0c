"""Keys of earlier versions, and their current names."""

from collections.abc import Iterator
from typing import Any

from pipelines.config.files import ConfigFileError, Keys, RawConfig

SECTIONS = {
    "prior": "priors.prior",
    "second_prior": "priors.<another name>",
    "upsampler_1": "upsamplers.upsampler_1",
    "upsampler_2": "upsamplers.upsampler_2",
}
SAMPLING = {
    "prior_sampler": "prior.sampler",
    "prior_steps": "prior.num_inference_steps",
    "prior_guidance_scale": "prior.guidance_scale",
    "prior_candidates": "prior.candidates",
    "prior_temperature": "prior.temperature",
    "decoder_sampler": "decoder.sampler",
    "decoder_steps": "decoder.num_inference_steps",
    "decoder_guidance_scale": "decoder.guidance_scale",
    "dynamic_threshold": "decoder.dynamic_threshold",
    "upsampler_1_sampler": "upsamplers.upsampler_1.sampler",
    "upsampler_1_steps": "upsamplers.upsampler_1.num_inference_steps",
    "upsampler_2_sampler": "upsamplers.upsampler_2.sampler",
    "upsampler_2_steps": "upsamplers.upsampler_2.num_inference_steps",
}
ANYWHERE = {"lanes": "logical_ranks", "embed_width": "embed_dim"}
SINGLE = {
    ("download", "threads"): "download.connections",
    ("loader", "shuffle_shards"): "loader.shuffle_rows, a number of rows",
}


def refuse_old_keys(raw: RawConfig) -> None:
    """Raise `ConfigFileError` with the current name of each old key in the file."""
    messages = [
        f"{raw.where(keys)}: {'.'.join(keys)} is now {new}." for keys, new in _old(raw.values, ())
    ]
    if messages:
        raise ConfigFileError("\n".join(dict.fromkeys(messages)))


def _old(values: Any, at: Keys) -> Iterator[tuple[Keys, str]]:
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        keys = (*at, str(name))
        if not at and name in SECTIONS:
            yield keys, SECTIONS[name]
        elif at == ("evaluate", "sampling") and name in SAMPLING:
            yield keys, f"evaluate.sampling.{SAMPLING[name]}"
        elif keys in SINGLE:
            yield keys, SINGLE[keys]
        elif name in ANYWHERE:
            yield keys, ".".join((*at, ANYWHERE[name]))
        else:
            yield from _old(value, keys)
