"""The whole generator as one object: caption -> image embedding -> small image -> large image."""

# B batch, L context length, E width of the CLIP embeddings, S image size, K candidates

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.ar_sampling import sample_codes
from unclip.config import Config, ConfigError
from unclip.denoisers import (
    decoder_denoiser,
    prior_denoiser,
    schedule_of,
    upsampler_denoiser,
)
from unclip.models import ARPrior, Decoder, DiffusionPrior, Upsampler
from unclip.samplers import Denoise, ddim, randn


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """How to sample from each model of a cascade."""

    prior_steps: int  # of a diffusion prior
    prior_guidance_scale: float  # 1: no guidance
    prior_candidates: int  # drawn per caption by a diffusion prior; the closest to z_t is kept
    decoder_steps: int
    decoder_guidance_scale: float
    dynamic_threshold: float | None  # quantile of |x_0| in the decoder; None clamps to [-1, 1]
    upsampler_1_steps: int
    upsampler_2_steps: int
    eta: float  # 0: DDIM, deterministic in the first noise; 1: as much noise as ancestral sampling
    bf16: bool  # autocast to bfloat16
    prior_temperature: float = 1.0  # of an autoregressive prior; below 1 favours likely codes

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
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


@dataclass(frozen=True)
class Cascade:
    """Four trained models, in evaluation mode and on one device, and how to sample from them."""

    prior: DiffusionPrior | ARPrior
    decoder: Decoder
    upsampler_1: Upsampler
    upsampler_2: Upsampler
    sampling: SamplingConfig

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.decoder.null_image_embeds.device

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
        candidates = self.sampling.prior_candidates
        noise = self._randn((len(tokens) * candidates, prior.config.embed_width), generator)
        with self._autocast():
            denoise = prior_denoiser(
                prior,
                tokens.repeat_interleave(candidates, dim=0),
                text_embeds.repeat_interleave(candidates, dim=0),
                guidance_scale=self.sampling.prior_guidance_scale,
            )
            drawn = self._ddim(prior, denoise, noise, self.sampling.prior_steps, generator)
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
        if noise is None:
            size = self.decoder.config.image_size
            noise = self._randn((len(given), 3, size, size), generator)
        with self._autocast():
            denoise = decoder_denoiser(
                self.decoder,
                image_embeds,
                tokens,
                guidance_scale=self.sampling.decoder_guidance_scale,
                dynamic_threshold=self.sampling.dynamic_threshold,
            )
            pixels = self._ddim(
                self.decoder, denoise, noise, self.sampling.decoder_steps, generator
            )
        return pixels.clamp(-1, 1)

    def upsample(self, pixels: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, 3, s, s) in [-1, 1] to the two larger sizes."""
        sampling = self.sampling
        middle = self._upsample(self.upsampler_1, pixels, sampling.upsampler_1_steps, generator)
        large = self._upsample(self.upsampler_2, middle, sampling.upsampler_2_steps, generator)
        return middle, large

    @torch.no_grad()
    def _upsample(
        self, model: Upsampler, pixels: Tensor, steps: int, generator: torch.Generator
    ) -> Tensor:
        size = pixels.shape[-1] * model.config.scale
        noise = self._randn((len(pixels), 3, size, size), generator)
        with self._autocast():
            enlarged = model.condition(pixels)
            denoise = upsampler_denoiser(model, enlarged)
            drawn = self._ddim(model, denoise, noise, steps, generator)
        return model.to_pixels(drawn, enlarged).clamp(-1, 1)

    def _ddim(
        self,
        model: DiffusionPrior | Decoder | Upsampler,
        denoise: Denoise,
        noise: Tensor,
        steps: int,
        generator: torch.Generator,
    ) -> Tensor:
        return ddim(
            denoise,
            noise,
            schedule=schedule_of(model, noise.device),
            num_inference_steps=steps,
            eta=self.sampling.eta,
            generator=generator,
        )

    def _randn(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return randn(shape, generator=generator, device=self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.sampling.bf16)


def closest(candidates: Tensor, text_embeds: Tensor) -> Tensor:
    """Of the candidates (B, K, E), the one with the largest dot product with (B, E); (B, E)."""
    best = torch.einsum("bke,be->bk", candidates, text_embeds.float()).argmax(dim=1)  # (B,)
    return candidates[torch.arange(len(candidates), device=candidates.device), best]
