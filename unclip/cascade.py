"""The whole generator as one object: caption -> image embedding -> small image -> large image."""

# B batch, L context length, E width of the CLIP embeddings, S image size, K candidates

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.ar_sampling import sample_codes
from unclip.checks import check_embeds, check_rows, check_shape
from unclip.config import Config, ConfigError
from unclip.denoisers import (
    decoder_denoiser,
    decoder_denoiser_with_variance,
    prior_denoiser,
    schedule_of,
    upsampler_denoiser,
)
from unclip.guidance import check_guidance
from unclip.models import ARPrior, Decoder, DecoderConfig, DiffusionPrior, Upsampler
from unclip.samplers import (
    SAMPLERS,
    Denoise,
    DenoiseWithVariance,
    check_sampler,
    estimate_noise_norms,
    randn,
)

# ddpm_learned needs a model that tells its variance, analytic_dpm an estimate made with the prior.
UPSAMPLER_SAMPLERS = tuple(
    name for name in SAMPLERS if name not in ("ddpm_learned", "analytic_dpm")
)
PRIOR_SAMPLERS = (*UPSAMPLER_SAMPLERS, "analytic_dpm")
DECODER_SAMPLERS = (*UPSAMPLER_SAMPLERS, "ddpm_learned")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """How to sample from each model of a cascade."""

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
    upsampler_2_sampler: str  # as for the prior, but analytic_dpm
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


class Generated(NamedTuple):
    """What a cascade makes of a batch of captions."""

    image_embeds: Tensor  # (B, E) unit-norm
    pixels: tuple[Tensor, Tensor, Tensor]  # (B, 3, S, S) in [-1, 1] at rising S


def check_decoder_sampler(sampling: SamplingConfig, decoder: DecoderConfig) -> None:
    """Raise `ConfigError` where the sampler asks for a variance that the decoder did not learn."""
    if sampling.decoder_sampler == "ddpm_learned" and not decoder.learned_variance:
        raise ConfigError(
            "sampling.decoder_sampler='ddpm_learned' needs decoder.model.learned_variance=true, "
            "from training on; train such a decoder or choose another sampler"
        )


@dataclass(frozen=True)
class Cascade:
    """Four trained models, in evaluation mode and on one device, and how to sample from them."""

    prior: DiffusionPrior | ARPrior
    decoder: Decoder
    upsampler_1: Upsampler
    upsampler_2: Upsampler
    sampling: SamplingConfig
    prior_noise_norms: Tensor | None = None  # (prior_steps,), for analytic_dpm

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.decoder.null_image_embeds.device

    def __post_init__(self) -> None:
        """Refuse a sampler or a guidance that the models cannot serve."""
        check_decoder_sampler(self.sampling, self.decoder.config)
        check_guidance("prior", self.sampling.prior_guidance_scale, self.prior.config)
        check_guidance("decoder", self.sampling.decoder_guidance_scale, self.decoder.config)

    def generate(
        self, tokens: Tensor, text_embeds: Tensor, *, generator: torch.Generator
    ) -> Generated:
        """Images for captions; tokens: (B, L) int64; text_embeds: (B, E) unit-norm."""
        image_embeds = self.sample_image_embeds(tokens, text_embeds, generator=generator)
        pixels = self.decode(image_embeds, tokens, generator=generator)
        return Generated(image_embeds, (pixels, *self.upsample(pixels, generator=generator)))

    @torch.no_grad()
    def sample_image_embeds(
        self, tokens: Tensor, text_embeds: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """Image embeddings for captions, by the prior of either kind; (B, E) unit-norm."""
        check_embeds("text_embeds", text_embeds, self.prior.config.embed_width)
        check_rows(tokens=tokens, text_embeds=text_embeds)
        if isinstance(self.prior, ARPrior):
            return self._sample_autoregressive(self.prior, tokens, text_embeds, generator)
        return self._sample_diffusion(self.prior, tokens, text_embeds, generator)

    def _sample_autoregressive(
        self, prior: ARPrior, tokens: Tensor, text_embeds: Tensor, generator: torch.Generator
    ) -> Tensor:
        with self._autocast():
            codes = sample_codes(
                prior,
                tokens,
                text_embeds,
                guidance_scale=self.sampling.prior_guidance_scale,
                temperature=self.sampling.prior_temperature,
                generator=generator,
            )
        return prior.decode(codes)

    def _sample_diffusion(
        self, prior: DiffusionPrior, tokens: Tensor, text_embeds: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw candidates for each caption and keep the one closest to z_t; (B, E) unit-norm."""
        if self.sampling.prior_sampler == "analytic_dpm" and self.prior_noise_norms is None:
            raise ConfigError(
                "sampling.prior_sampler='analytic_dpm' needs noise norms; sample from the cascade "
                "that `with_prior_noise_norms` returns"
            )
        candidates = self.sampling.prior_candidates
        noise = self._randn((len(tokens) * candidates, prior.config.embed_width), generator)
        with self._autocast():
            denoise = prior_denoiser(
                prior,
                tokens.repeat_interleave(candidates, dim=0),
                text_embeds.repeat_interleave(candidates, dim=0),
                guidance_scale=self.sampling.prior_guidance_scale,
            )
            drawn = self._sample(prior, "prior", denoise, noise, generator)
        drawn = rearrange(F.normalize(drawn, dim=-1), "(b k) e -> b k e", k=candidates)
        return closest(drawn, text_embeds)

    @torch.no_grad()
    def decode(
        self,
        image_embeds: Tensor | None,
        tokens: Tensor | None,
        *,
        generator: torch.Generator,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Small images of image embeddings and captions; None stands for the learned null.

        image_embeds: (B, E) unit-norm; tokens: (B, L) int64; noise: (B, 3, S, S), the x_T to start
        from, drawn when not given. Returns (B, 3, S, S) in [-1, 1].
        """
        given = image_embeds if image_embeds is not None else tokens
        if given is None:
            raise ConfigError("decode got neither image_embeds nor tokens; give one of them")
        size = self.decoder.config.image_size
        if noise is None:
            noise = self._randn((len(given), 3, size, size), generator)
        check_shape("noise", noise, (len(given), 3, size, size), "give one x_T for each picture")
        with self._autocast():
            learned = self.sampling.decoder_sampler == "ddpm_learned"
            make_denoiser = decoder_denoiser_with_variance if learned else decoder_denoiser
            denoise: Denoise | DenoiseWithVariance = make_denoiser(
                self.decoder,
                image_embeds,
                tokens,
                guidance_scale=self.sampling.decoder_guidance_scale,
                dynamic_threshold=self.sampling.dynamic_threshold,
            )
            pixels = self._sample(self.decoder, "decoder", denoise, noise, generator)
        return pixels.clamp(-1, 1)

    def upsample(self, pixels: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, 3, s, s) in [-1, 1], of any height and width, to the two larger sizes."""
        middle = self._upsample(self.upsampler_1, "upsampler_1", pixels, generator)
        large = self._upsample(self.upsampler_2, "upsampler_2", middle, generator)
        return middle, large

    @torch.no_grad()
    def _upsample(
        self, model: Upsampler, name: str, pixels: Tensor, generator: torch.Generator
    ) -> Tensor:
        with self._autocast():
            enlarged = model.condition(pixels)
            noise = self._randn(tuple(enlarged.shape), generator)
            denoise = upsampler_denoiser(model, enlarged)
            drawn = self._sample(model, name, denoise, noise, generator)
        return model.to_pixels(drawn, enlarged).clamp(-1, 1)

    def _sample(
        self,
        model: DiffusionPrior | Decoder | Upsampler,
        name: str,
        denoise: Denoise | DenoiseWithVariance,
        noise: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """With the sampler and the steps that the config gives the model of this name."""
        sampler = getattr(self.sampling, f"{name}_sampler")
        options: dict[str, dict[str, object]] = {
            "ddim": {"eta": self.sampling.eta},
            "analytic_dpm": {"noise_norms": self.prior_noise_norms},
        }
        return SAMPLERS[sampler](
            denoise,
            noise,
            schedule=schedule_of(model, noise.device),
            num_inference_steps=getattr(self.sampling, f"{name}_steps"),
            generator=generator,
            **options.get(sampler, {}),
        )

    def _randn(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return randn(shape, generator=generator, device=self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.sampling.bf16)


def closest(candidates: Tensor, text_embeds: Tensor) -> Tensor:
    """Of the candidates (B, K, E), the one with the largest dot product with (B, E); (B, E)."""
    best = torch.einsum("bke,be->bk", candidates, text_embeds.float()).argmax(dim=1)  # (B,)
    return candidates[torch.arange(len(candidates), device=candidates.device), best]


def with_prior_noise_norms(
    cascade: Cascade, batch: Mapping[str, Tensor], *, generator: torch.Generator
) -> Cascade:
    """The cascade, ready for sampling from its prior with analytic_dpm.

    batch: "tokens" (B, L), "text_embeds" and "image_embeds" (B, E) unit-norm, of real pairs; some
    dozens are enough, because each step needs one number.
    """
    prior, sampling = cascade.prior, cascade.sampling
    if isinstance(prior, ARPrior):
        raise ConfigError(
            "an autoregressive prior has no noise to estimate norms of; sample from it as it is"
        )
    image_embeds = batch["image_embeds"].to(cascade.device) * prior.config.embedding_scale
    with (
        torch.no_grad(),
        torch.autocast(cascade.device.type, torch.bfloat16, enabled=sampling.bf16),
    ):
        denoise = prior_denoiser(
            prior,
            batch["tokens"].to(cascade.device),
            batch["text_embeds"].to(cascade.device),
            guidance_scale=sampling.prior_guidance_scale,
        )
        noise_norms = estimate_noise_norms(
            [(denoise, image_embeds)],
            schedule=schedule_of(prior, cascade.device),
            num_inference_steps=sampling.prior_steps,
            generator=generator,
        )
    return replace(cascade, prior_noise_norms=noise_norms)
