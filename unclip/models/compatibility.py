"""Whether models can feed each other, as their configs tell."""

from collections.abc import Sequence

from unclip.config import ConfigError
from unclip.models.ar_prior import ARPriorConfig
from unclip.models.decoder import DecoderConfig
from unclip.models.karlo import KarloDecoderConfig, KarloPriorConfig, KarloUpsamplerConfig
from unclip.models.prior import DiffusionPriorConfig
from unclip.models.upsampler import UpsamplerConfig


def check_compatibility(
    prior: DiffusionPriorConfig | ARPriorConfig | KarloPriorConfig | None,
    decoder: DecoderConfig | KarloDecoderConfig,
    upsamplers: Sequence[UpsamplerConfig | KarloUpsamplerConfig],
) -> None:
    """Raise `ConfigError` where models of a cascade, from the smallest, cannot feed each other."""
    if prior is not None:
        check_embeddings(prior, decoder)
    before, made = "decoder", decoder.image_size
    for number, upsampler in enumerate(upsamplers, start=1):
        if upsampler.low_res_size != made:
            raise ConfigError(
                f"upsampler_{number}.low_res_size={upsampler.low_res_size}, but the pictures of "
                f"{before} before it have image_size={made}; make the two equal"
            )
        before, made = f"upsampler_{number}", upsampler.image_size


def check_embeddings(
    prior: DiffusionPriorConfig | ARPriorConfig | KarloPriorConfig,
    decoder: DecoderConfig | KarloDecoderConfig,
) -> None:
    """Raise `ConfigError` unless the decoder reads embeddings such as the prior makes."""
    if prior.embed_dim != decoder.embed_dim:
        raise ConfigError(
            f"prior.embed_dim={prior.embed_dim} and decoder.embed_dim={decoder.embed_dim} "
            "differ; give both the width of the CLIP"
        )
    if isinstance(prior, KarloPriorConfig) == decoder.unit_norm:
        raise ConfigError(
            f"{type(prior).__name__} and {type(decoder).__name__} have image embeddings of "
            "different lengths; take both of Karlo's or none"
        )
