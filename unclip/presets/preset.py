"""The four models of a cascade as one typed config, checked to fit each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unclip.config import Config, ConfigError
from unclip.models import (
    ARPriorConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    UpsamplerConfig,
)

CLIP_VOCAB_SIZE = 49_408  # of the byte-pair encoding of CLIP (Radford et al. 2021)


@dataclass(frozen=True, kw_only=True)
class Preset(Config):
    """The four models of a cascade, whose sizes fit together."""

    prior: DiffusionPriorConfig | ARPriorConfig
    decoder: DecoderConfig
    upsampler_1: UpsamplerConfig
    upsampler_2: UpsamplerConfig

    def __post_init__(self) -> None:
        """Refuse models that cannot feed each other."""
        check_fit(self.prior, self.decoder, (self.upsampler_1, self.upsampler_2))


def check_fit(
    prior: DiffusionPriorConfig | ARPriorConfig | KarloPriorConfig,
    decoder: DecoderConfig | KarloDecoderConfig,
    upsamplers: Sequence[UpsamplerConfig | KarloUpsamplerConfig],
) -> None:
    """Raise `ConfigError` where models of a cascade cannot feed each other."""
    if prior.embed_width != decoder.embed_width:
        raise ConfigError(
            f"prior.embed_width={prior.embed_width} and decoder.embed_width={decoder.embed_width} "
            "differ; give both the width of the CLIP"
        )
    sizes = [decoder.image_size, *(u.image_size for u in upsamplers[:-1])]
    wanted = [upsampler.low_res_size for upsampler in upsamplers]
    if sizes != wanted:
        raise ConfigError(
            f"the decoder and upsampler_1 make {sizes} pixels, but the upsamplers after them take "
            f"{wanted}; give each low_res_size the image_size before it"
            if len(sizes) > 1
            else f"the decoder makes {sizes[0]} pixels, but the upsampler after it takes "
            f"{wanted[0]}; give its low_res_size the decoder's image_size"
        )


def with_embed_width(preset: Preset, embed_width: int) -> Preset:
    """The preset for a CLIP of another width, embeddings scaled to the same variance as before."""
    prior = replace(preset.prior, embed_width=embed_width)
    if isinstance(prior, DiffusionPriorConfig):
        scale = prior.embedding_scale * (embed_width / preset.prior.embed_width) ** 0.5
        prior = replace(prior, embedding_scale=scale)
    return replace(
        preset,
        prior=prior,
        decoder=replace(preset.decoder, embed_width=embed_width),
    )
