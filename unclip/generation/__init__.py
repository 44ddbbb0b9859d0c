"""Image generation: the cascade of trained models, and the sampling settings of each."""

from unclip.generation.cascade import Cascade, Generated, closest
from unclip.generation.config import (
    DecoderSampling,
    PriorSampling,
    SamplingConfig,
    UpsamplerSampling,
    check_decoder_sampler,
    check_guidance,
    check_upsampler_names,
)
from unclip.generation.noise_norms import with_prior_noise_norms
from unclip.generation.overrides import with_overrides

__all__ = [
    "Cascade",
    "DecoderSampling",
    "Generated",
    "PriorSampling",
    "SamplingConfig",
    "UpsamplerSampling",
    "check_decoder_sampler",
    "check_guidance",
    "check_upsampler_names",
    "closest",
    "with_overrides",
    "with_prior_noise_norms",
]
