"""The models of a cascade as one object: caption -> image embedding -> images of rising size."""

# B batch, L context length, E width of the CLIP embeddings, S image size, K candidates
# Image embeddings have the norm that the decoder expects: 1, or CLIP's own norm for Karlo's models.
# Text embeddings have norm 1.

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.config import ConfigError
from unclip.denoising.denoisers import without_variance
from unclip.diffusion import schedule_of
from unclip.generation.config import (
    DECODER_PROVIDES,
    PRIOR_PROVIDES,
    UPSAMPLER_PROVIDES,
    SamplingConfig,
    check_decoder_sampler,
    check_guidance,
    check_upsampler_names,
)
from unclip.kinds import spec_of
from unclip.kinds.spec import ModelSpec
from unclip.models.compatibility import check_compatibility
from unclip.samplers import (
    LEARNED_VARIANCE,
    NOISE_NORMS,
    Denoise,
    DenoiseWithVariance,
    Generators,
    Sampler,
    find_sampler,
    needs_of,
    randn,
    sample,
)
from unclip.validation import check_embeds, check_rows, check_shape

log = logging.getLogger(__name__)

# An nn.Module with a config and the methods that `ModelSpec` lists for its role.
Model = Any


class Generated(NamedTuple):
    """The outputs of a cascade for a batch."""

    image_embeds: Tensor  # (B, E)
    pixels: tuple[Tensor, ...]  # (B, 3, S, S) in [-1, 1], smallest S first


@dataclass(frozen=True)
class Cascade:
    """Trained models, in evaluation mode and on one device, with their sampling settings.

    The models draw noise in order: prior, decoder, upsamplers. Each draws its x_T first, then the
    noise of its steps. With one generator for each row, a row's noise does not depend on the other
    rows of the batch.
    """

    prior: Model | None  # None: image variation works, generation from captions does not
    decoder: Model
    upsamplers: Mapping[str, Model]  # by name, smallest first; may be empty
    sampling: SamplingConfig
    prior_noise_norms: Tensor | None = None  # (num_inference_steps,), for analytic_dpm

    @property
    def device(self) -> torch.device:
        """The models' device."""
        device: torch.device = next(self.decoder.parameters()).device
        return device

    @property
    def models(self) -> dict[str, Model]:
        """All models by name: "prior" if there is one, "decoder", then the upsamplers."""
        prior = {} if self.prior is None else {"prior": self.prior}
        return {**prior, "decoder": self.decoder, **self.upsamplers}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Image sizes of the decoder and of each upsampler, smallest first."""
        made = (self.decoder, *self.upsamplers.values())
        return tuple(model.config.image_size for model in made)

    def __post_init__(self) -> None:
        """Refuse models that do not fit each other or the sampling settings."""
        prior = None if self.prior is None else self.prior.config
        configs = {name: model.config for name, model in self.upsamplers.items()}
        check_compatibility(prior, self.decoder.config, configs)
        check_upsampler_names(self.sampling, self.upsamplers)
        check_decoder_sampler(self.sampling, self.decoder.config)
        if prior is not None:
            check_guidance("prior", self.sampling.prior.guidance_scale, prior)
        check_guidance("decoder", self.sampling.decoder.guidance_scale, self.decoder.config)

    def generate(self, tokens: Tensor, text_embeds: Tensor, *, generator: Generators) -> Generated:
        """Generate one image per caption, at each size of `sizes`.

        tokens: (B, L) int64; text_embeds: (B, E) unit-norm. Raises `ConfigError` without a prior.
        """
        image_embeds = self.sample_image_embeds(tokens, text_embeds, generator=generator)
        pixels = self.decode(image_embeds, tokens, generator=generator)
        return Generated(image_embeds, (pixels, *self.upsample(pixels, generator=generator)))

    @torch.no_grad()
    def sample_image_embeds(
        self, tokens: Tensor, text_embeds: Tensor, *, generator: Generators
    ) -> Tensor:
        """Sample image embeddings for captions from a prior of any kind; (B, E).

        tokens: (B, L) int64; text_embeds: (B, E) unit-norm. Raises `ConfigError` without a prior.
        """
        if self.prior is None:
            raise ConfigError(
                "this cascade has no prior, so it only varies images; load models with one, or "
                "give `decode` image_embeds"
            )
        check_embeds("text_embeds", text_embeds, self.prior.config.embed_dim)
        check_rows(tokens=tokens, text_embeds=text_embeds)
        spec, settings = spec_of(self.prior), self.sampling.prior
        log.debug("prior %s: %d captions", spec.kind, len(tokens))
        if spec.sample is None:
            return self._sample_diffusion_prior(spec, tokens, text_embeds, generator)
        with self._autocast():
            return spec.sample(
                self.prior,
                tokens,
                text_embeds,
                guidance_scale=settings.guidance_scale,
                temperature=settings.temperature,
                generator=generator,
            )

    def _sample_diffusion_prior(
        self, spec: ModelSpec, tokens: Tensor, text_embeds: Tensor, generator: Generators
    ) -> Tensor:
        """Draw candidates for each caption and keep the one closest to z_t; (B, E)."""
        assert self.prior is not None
        assert spec.denoiser is not None
        settings, candidates = self.sampling.prior, self.sampling.prior.candidates
        sampler = find_sampler(settings.sampler, what="prior sampler", provided=PRIOR_PROVIDES)
        if NOISE_NORMS in needs_of(sampler) and self.prior_noise_norms is None:
            raise ConfigError(
                f"sampling.prior.sampler={settings.sampler!r} needs noise norms; sample from the "
                "cascade that `with_prior_noise_norms` returns"
            )
        noise = self._randn((len(tokens) * candidates, self.prior.config.embed_dim), generator)
        with self._autocast():
            denoise = spec.denoiser(
                self.prior,
                tokens.repeat_interleave(candidates, dim=0),
                text_embeds.repeat_interleave(candidates, dim=0),
                guidance_scale=settings.guidance_scale,
            )
            drawn = self._sample(
                self.prior, sampler, settings.num_inference_steps, denoise, noise, generator
            )
        drawn = rearrange(self.prior.to_image_space(drawn), "(b k) e -> b k e", k=candidates)
        return closest(drawn, text_embeds)

    @torch.no_grad()
    def decode(
        self,
        image_embeds: Tensor | None,
        tokens: Tensor | None,
        *,
        generator: Generators | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Decode to images of the decoder's size; None for a condition means the learned null.

        image_embeds: (B, E); tokens: (B, L) int64; noise: (B, 3, S, S), the x_T to start from,
        drawn if None. Returns (B, 3, S, S) in [-1, 1].
        """
        given = image_embeds if image_embeds is not None else tokens
        if given is None:
            raise ConfigError("decode got neither image_embeds nor tokens; give one of them")
        size, settings = self.decoder.config.image_size, self.sampling.decoder
        if noise is None:
            noise = self._randn((len(given), 3, size, size), generator)
        check_shape("noise", noise, (len(given), 3, size, size), "give one x_T for each image")
        sampler = find_sampler(settings.sampler, what="decoder sampler", provided=DECODER_PROVIDES)
        with self._autocast():
            denoise: Denoise | DenoiseWithVariance = (
                self.decoder_denoiser_with_variance(image_embeds, tokens)
                if LEARNED_VARIANCE in needs_of(sampler)
                else self.decoder_denoiser(image_embeds, tokens)
            )
            pixels = self._sample(
                self.decoder, sampler, settings.num_inference_steps, denoise, noise, generator
            )
        return pixels.clamp(-1, 1)

    def decoder_denoiser(self, image_embeds: Tensor | None, tokens: Tensor | None) -> Denoise:
        """The decoder's denoiser under the cascade's settings; arguments as for `decode`."""
        return without_variance(self.decoder_denoiser_with_variance(image_embeds, tokens))

    def decoder_denoiser_with_variance(
        self, image_embeds: Tensor | None, tokens: Tensor | None
    ) -> DenoiseWithVariance:
        """As `decoder_denoiser`, but with the variance output, for samplers that need it."""
        denoiser = spec_of(self.decoder).denoiser
        assert denoiser is not None
        made: DenoiseWithVariance = denoiser(
            self.decoder,
            image_embeds,
            tokens,
            guidance_scale=self.sampling.decoder.guidance_scale,
            dynamic_threshold=self.sampling.decoder.dynamic_threshold,
        )
        return made

    def upsample(self, pixels: Tensor, *, generator: Generators) -> tuple[Tensor, ...]:
        """Upsample images; returns one (B, 3, S, S) in [-1, 1] per upsampler, smallest first.

        pixels: (B, 3, s, s) in [-1, 1]; height and width may differ from the trained size.
        """
        made = [pixels]
        for name in self.upsamplers:
            made.append(self._upsample(name, made[-1], generator))
        return tuple(made[1:])

    @torch.no_grad()
    def _upsample(self, name: str, pixels: Tensor, generator: Generators) -> Tensor:
        """Sample from one upsampler; (B, 3, S, S) in [-1, 1]."""
        model, settings = self.upsamplers[name], self.sampling.upsamplers[name]
        sampler = find_sampler(
            settings.sampler, what=f"{name} sampler", provided=UPSAMPLER_PROVIDES
        )
        denoiser = spec_of(model).denoiser
        assert denoiser is not None
        with self._autocast():
            enlarged = model.condition(pixels)
            noise = self._randn(tuple(enlarged.shape), generator)
            denoise = denoiser(model, enlarged)
            drawn = self._sample(
                model, sampler, settings.num_inference_steps, denoise, noise, generator
            )
        clamped: Tensor = model.to_pixels(drawn, enlarged).clamp(-1, 1)
        return clamped

    def _sample(
        self,
        model: Model,
        sampler: Sampler,
        num_inference_steps: int,
        denoise: Any,
        noise: Tensor,
        generator: Generators | None,
    ) -> Tensor:
        """Run the sampler from x_T = noise; returns x_0 of the same shape."""
        options = {
            "schedule": schedule_of(model.config, noise.device),
            "num_inference_steps": num_inference_steps,
            "generator": generator,
            "eta": self.sampling.eta,
            "noise_norms": self.prior_noise_norms,
        }
        return sample(sampler, denoise, noise, options=options)

    def _randn(self, shape: tuple[int, ...], generator: Generators | None) -> Tensor:
        return randn(shape, generator=generator, device=self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.sampling.bf16)


def closest(candidates: Tensor, text_embeds: Tensor) -> Tensor:
    """The candidate (B, K, E) of each row with the highest cosine to text_embeds (B, E); (B, E)."""
    directions = F.normalize(candidates, dim=-1)
    best = torch.einsum("bke,be->bk", directions, text_embeds.float()).argmax(dim=1)  # (B,)
    return candidates[torch.arange(len(candidates), device=candidates.device), best]
