"""Sampling settings of the models of a cascade."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unclip.config import Config, ConfigError
from unclip.samplers import ETA, LEARNED_VARIANCE, NOISE_NORMS, find_sampler, needs_of

# Optional sampler inputs that the models of each role provide.
PRIOR_PROVIDES = frozenset({ETA, NOISE_NORMS})
DECODER_PROVIDES = frozenset({ETA, LEARNED_VARIANCE})
UPSAMPLER_PROVIDES = frozenset({ETA})


@dataclass(frozen=True, kw_only=True)
class PriorSampling(Config):
    """How to sample from a prior of any kind."""

    tag: ClassVar[str] = "prior_sampling"

    sampler: str  # of a diffusion prior: a built-in name, or "module:function"
    num_inference_steps: int  # of a diffusion prior; 64 in the paper
    guidance_scale: float  # 1: no guidance; a linear prior has none
    candidates: int  # of a diffusion prior: samples per caption; the closest to z_t is kept
    temperature: float = 1.0  # of an autoregressive prior; below 1 favours likely codes

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        find_sampler(self.sampler, what="sampling.prior.sampler", provided=PRIOR_PROVIDES)
        _check_steps("prior", self.num_inference_steps, "64")
        if self.candidates < 1:
            raise ConfigError(
                f"sampling.prior.candidates={self.candidates} must be at least 1; the paper draws 2"
            )
        if self.temperature <= 0:
            raise ConfigError(
                f"sampling.prior.temperature={self.temperature} must be positive; 1 samples from "
                "the model as it was trained"
            )


@dataclass(frozen=True, kw_only=True)
class DecoderSampling(Config):
    """How to sample from a decoder."""

    tag: ClassVar[str] = "decoder_sampling"

    sampler: str  # a built-in name, or "module:function"
    num_inference_steps: int  # 250 in the paper
    guidance_scale: float  # 1: no guidance
    dynamic_threshold: float | None  # quantile of |x_0|; None clamps x_0 to [-1, 1]

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        find_sampler(self.sampler, what="sampling.decoder.sampler", provided=DECODER_PROVIDES)
        _check_steps("decoder", self.num_inference_steps, "250")
        if self.dynamic_threshold is not None and not 0 < self.dynamic_threshold <= 1:
            raise ConfigError(
                f"sampling.decoder.dynamic_threshold={self.dynamic_threshold} is not a quantile; "
                "give about 0.995, or null to clamp"
            )


@dataclass(frozen=True, kw_only=True)
class UpsamplerSampling(Config):
    """How to sample from one upsampler."""

    tag: ClassVar[str] = "upsampler_sampling"

    sampler: str  # a built-in name, or "module:function"
    num_inference_steps: int  # 27 and 15 in the paper

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        what = "sampling.upsamplers: sampler"
        find_sampler(self.sampler, what=what, provided=UPSAMPLER_PROVIDES)
        _check_steps("upsamplers", self.num_inference_steps, "27 and 15")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """How to sample from each model of a cascade."""

    tag: ClassVar[str] = "sampling"

    prior: PriorSampling
    decoder: DecoderSampling
    upsamplers: Mapping[str, UpsamplerSampling]  # by name, smallest first
    eta: float  # of ddim; 0: deterministic in x_T; 1: as much noise as ddpm_fixed_small
    bf16: bool  # autocast to bfloat16

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"sampling.eta={self.eta} must lie between 0 and 1")


def _check_steps(section: str, steps: int, in_paper: str) -> None:
    if steps < 1:
        raise ConfigError(
            f"sampling.{section}: num_inference_steps={steps} must be at least 1; the paper uses "
            f"{in_paper}"
        )


def check_decoder_sampler(sampling: SamplingConfig, decoder: Any) -> None:
    """Raise `ConfigError` if the sampler needs a learned variance and the decoder has none.

    decoder: the decoder's config.
    """
    name = sampling.decoder.sampler
    sampler = find_sampler(name, what="sampling.decoder.sampler", provided=DECODER_PROVIDES)
    if LEARNED_VARIANCE in needs_of(sampler) and not decoder.learned_variance:
        raise ConfigError(
            f"sampling.decoder.sampler={name!r} needs a decoder that was trained with "
            "decoder.model.learned_variance=true; train one, or choose another sampler"
        )


def check_guidance(model: str, guidance_scale: float, config: Any) -> None:
    """Raise `ConfigError` for guidance of a model whose training never dropped the condition.

    model: "prior" or "decoder"; config: the model's config.
    """
    names = [name for name in ("image_dropout", "text_dropout") if hasattr(config, name)]
    never = next((name for name in names if getattr(config, name) == 0), None)
    if guidance_scale != 1 and never is not None:
        raise ConfigError(
            f"sampling.{model}.guidance_scale={guidance_scale}, but {model}.model.{never}=0: the "
            "model never learned its null condition, which guidance needs; set guidance_scale to "
            f"1, or train with {never} above 0"
        )


def check_upsampler_names(sampling: SamplingConfig, upsamplers: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless sampling settings exist for exactly these upsamplers."""
    given, wanted = sampling.upsamplers.keys(), upsamplers.keys()
    if given != wanted:
        raise ConfigError(
            f"sampling.upsamplers has settings for {_listed(given)}, but the upsamplers are "
            f"{_listed(wanted)}; give settings for each of them and no other"
        )


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
