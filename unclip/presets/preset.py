"""The models of a cascade as one typed config, checked to fit each other."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from unclip.config import Config
from unclip.models import (
    ARPriorConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    UpsamplerConfig,
)
from unclip.models.compatibility import check_compatibility

CLIP_VOCAB_SIZE = 49_408  # of the byte-pair encoding of CLIP (Radford et al. 2021)


@dataclass(frozen=True, kw_only=True)
class Preset(Config):
    """The models of a cascade, whose sizes fit together."""

    prior: DiffusionPriorConfig | ARPriorConfig | KarloPriorConfig
    decoder: DecoderConfig | KarloDecoderConfig
    upsamplers: Mapping[str, UpsamplerConfig | KarloUpsamplerConfig]  # smallest first

    def __post_init__(self) -> None:
        """Refuse models that cannot feed each other."""
        check_compatibility(self.prior, self.decoder, self.upsamplers)

    @property
    def models(self) -> dict[str, Config]:
        """All configs by name: "prior", "decoder", then the upsamplers."""
        return {"prior": self.prior, "decoder": self.decoder, **self.upsamplers}


def with_embed_dim(preset: Preset, embed_dim: int) -> Preset:
    """The preset for a CLIP of another width; scaled embeddings keep their variance."""
    prior = replace(preset.prior, embed_dim=embed_dim)
    if isinstance(prior, DiffusionPriorConfig):
        scale = prior.embedding_scale * (embed_dim / preset.prior.embed_dim) ** 0.5
        prior = replace(prior, embedding_scale=scale)
    decoder = replace(preset.decoder, embed_dim=embed_dim)
    return replace(preset, prior=prior, decoder=decoder)
