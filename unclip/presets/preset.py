"""The models of a cascade as one typed config, which checks that they fit together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from unclip.config import Config
from unclip.models import (
    ARPriorConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    EclipsePriorConfig,
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    LinearPriorConfig,
    UpsamplerConfig,
)
from unclip.models.compatibility import check_compatibility

CLIP_VOCAB_SIZE = 49_408  # of CLIP's byte-pair encoding (Radford et al. 2021)


@dataclass(frozen=True, kw_only=True)
class Preset(Config):
    """The configs of a cascade's models, whose sizes fit together."""

    prior: (
        DiffusionPriorConfig
        | ARPriorConfig
        | LinearPriorConfig
        | EclipsePriorConfig
        | KarloPriorConfig
    )
    decoder: DecoderConfig | KarloDecoderConfig
    upsamplers: Mapping[str, UpsamplerConfig | KarloUpsamplerConfig]  # smallest first

    def __post_init__(self) -> None:
        """Refuse models that do not fit together."""
        check_compatibility(self.prior, self.decoder, self.upsamplers)

    @property
    def models(self) -> dict[str, Config]:
        """All configs by name: "prior", "decoder", then the upsamplers."""
        return {"prior": self.prior, "decoder": self.decoder, **self.upsamplers}


def with_embed_dim(preset: Preset, embed_dim: int) -> Preset:
    """The preset for a CLIP of another width; the prior's scaled embeddings keep their variance."""
    prior = replace(preset.prior, embed_dim=embed_dim)
    if isinstance(prior, DiffusionPriorConfig):
        scale = prior.embedding_scale * (embed_dim / preset.prior.embed_dim) ** 0.5
        prior = replace(prior, embedding_scale=scale)
    decoder = replace(preset.decoder, embed_dim=embed_dim)
    return replace(preset, prior=prior, decoder=decoder)
