"""Checks by their configs whether the models of a cascade fit together."""

from collections.abc import Mapping
from typing import Any

from unclip.config import ConfigError


def check_compatibility(prior: Any, decoder: Any, upsamplers: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a model of a cascade cannot use the output of the one before it.

    prior: a config or None; decoder: a config; upsamplers: configs by name, smallest first.
    """
    if prior is not None:
        check_embeddings(prior, decoder)
    before, made = "decoder", decoder.image_size
    for name, upsampler in upsamplers.items():
        if upsampler.low_res_size != made:
            raise ConfigError(
                f"{name}.low_res_size={upsampler.low_res_size}, but {before} before it makes "
                f"images of image_size={made}; make the two equal"
            )
        before, made = name, upsampler.image_size


def check_embeddings(prior: Any, decoder: Any) -> None:
    """Raise `ConfigError` unless the decoder expects embeddings of the prior's width and norm."""
    if prior.embed_dim != decoder.embed_dim:
        raise ConfigError(
            f"prior.embed_dim={prior.embed_dim} and decoder.embed_dim={decoder.embed_dim} "
            "differ; give both the width of the CLIP"
        )
    if prior.unit_norm != decoder.unit_norm:
        raise ConfigError(
            f"{type(prior).__name__} and {type(decoder).__name__} use image embeddings of "
            "different norms (one norm 1, the other CLIP's own); take both from Karlo or neither"
        )
