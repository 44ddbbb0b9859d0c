"""How to sample from each model of a cascade."""

from dataclasses import dataclass
from typing import ClassVar

from unclip.config import Config, ConfigError
from unclip.models import DecoderConfig, KarloDecoderConfig
from unclip.samplers import SAMPLERS, check_sampler

# ddpm_learned needs a model that tells its variance, analytic_dpm an estimate made with the prior.
UPSAMPLER_SAMPLERS = tuple(
    name for name in SAMPLERS if name not in ("ddpm_learned", "analytic_dpm")
)
PRIOR_SAMPLERS = (*UPSAMPLER_SAMPLERS, "analytic_dpm")
DECODER_SAMPLERS = (*UPSAMPLER_SAMPLERS, "ddpm_learned")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """How to sample from each model of a cascade."""

    tag: ClassVar[str] = "sampling"

    prior_sampler: str  # ddim, ddpm_fixed_small, ddpm_fixed_large, dpm_solver_pp_2m, analytic_dpm
    prior_steps: int  # of a diffusion prior
    prior_guidance_scale: float  # 1: no guidance
    prior_candidates: int  # drawn per caption by a diffusion prior; the closest to z_t is kept
    decoder_sampler: str  # as for the prior, but ddpm_learned in place of analytic_dpm
    decoder_steps: int
    decoder_guidance_scale: float
    dynamic_threshold: float | None  # quantile of |x_0| in the decoder; None clamps to [-1, 1]
    upsampler_1_sampler: str  # as for the prior, but analytic_dpm
    upsampler_1_steps: int
    upsampler_2_sampler: str  # as for the prior, but analytic_dpm; where there is a second
    upsampler_2_steps: int
    eta: float  # of ddim; 0: deterministic in the first noise; 1: as much noise as ddpm_fixed_small
    bf16: bool  # autocast to bfloat16
    prior_temperature: float = 1.0  # of an autoregressive prior; below 1 favours likely codes

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_sampler("sampling.prior_sampler", self.prior_sampler, known=PRIOR_SAMPLERS)
        check_sampler("sampling.decoder_sampler", self.decoder_sampler, known=DECODER_SAMPLERS)
        for name in ("upsampler_1_sampler", "upsampler_2_sampler"):
            check_sampler(f"sampling.{name}", getattr(self, name), known=UPSAMPLER_SAMPLERS)
        for name in ("prior_steps", "decoder_steps", "upsampler_1_steps", "upsampler_2_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"sampling.{name}={getattr(self, name)} must be at least 1; the paper takes 64 "
                    "for the prior, 250 for the decoder, 27 and 15 for the upsamplers"
                )
        if self.prior_candidates < 1:
            raise ConfigError(
                f"sampling.prior_candidates={self.prior_candidates} must be at least 1; "
                "the paper draws 2"
            )
        if self.prior_temperature <= 0:
            raise ConfigError(
                f"sampling.prior_temperature={self.prior_temperature} must be positive; "
                "1 samples from the model as it was trained"
            )
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"sampling.eta={self.eta} must lie between 0 and 1")
        if self.dynamic_threshold is not None and not 0 < self.dynamic_threshold <= 1:
            raise ConfigError(
                f"sampling.dynamic_threshold={self.dynamic_threshold} is not a quantile; "
                "give about 0.995, or null to clamp"
            )


def check_decoder_sampler(
    sampling: SamplingConfig, decoder: DecoderConfig | KarloDecoderConfig
) -> None:
    """Raise `ConfigError` where the sampler asks for a variance that the decoder did not learn."""
    if sampling.decoder_sampler == "ddpm_learned" and not decoder.learned_variance:
        raise ConfigError(
            "sampling.decoder_sampler='ddpm_learned' needs decoder.model.learned_variance=true, "
            "from training on; train such a decoder or choose another sampler"
        )
