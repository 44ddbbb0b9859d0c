"""The four models of a cascade as one typed config, checked to fit each other."""

from dataclasses import dataclass, replace

from unclip.config import Config
from unclip.models import ARPriorConfig, DecoderConfig, DiffusionPriorConfig, UpsamplerConfig
from unclip.models.compatibility import check_compatibility

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
        check_compatibility(self.prior, self.decoder, (self.upsampler_1, self.upsampler_2))


def with_embed_dim(preset: Preset, embed_dim: int) -> Preset:
    """The preset for a CLIP of another width, embeddings scaled to the same variance as before."""
    prior = replace(preset.prior, embed_dim=embed_dim)
    if isinstance(prior, DiffusionPriorConfig):
        scale = prior.embedding_scale * (embed_dim / preset.prior.embed_dim) ** 0.5
        prior = replace(prior, embedding_scale=scale)
    return replace(
        preset,
        prior=prior,
        decoder=replace(preset.decoder, embed_dim=embed_dim),
    )
