"""From trained models to images: the cascade, the denoisers that it samples from, and guidance."""

from unclip.generation.cascade import Cascade, Generated, closest, with_prior_noise_norms
from unclip.generation.config import SamplingConfig, check_decoder_sampler

__all__ = [
    "Cascade",
    "Generated",
    "SamplingConfig",
    "check_decoder_sampler",
    "closest",
    "with_prior_noise_norms",
]
