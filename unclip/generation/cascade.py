"""The whole generator as one object: caption -> image embedding -> small image -> large image."""

# B batch, L context length, E width of the CLIP embeddings, S image size, K candidates
# Image embeddings have the length with which the decoder reads them: unit norm, but CLIP's own for
# Karlo's. Text embeddings are unit-norm.

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.config import ConfigError
from unclip.generation.autoregressive import sample_codes
from unclip.generation.config import SamplingConfig, check_decoder_sampler
from unclip.generation.denoisers import (
    decoder_denoiser,
    decoder_denoiser_with_variance,
    prior_denoiser,
    schedule_of,
    upsampler_denoiser,
)
from unclip.generation.guidance import check_guidance
from unclip.models import (
    AnyDecoder,
    AnyPrior,
    AnyUpsampler,
    ARPrior,
    DiffusionPrior,
    KarloPrior,
)
from unclip.models.compatibility import check_compatibility
from unclip.samplers import SAMPLERS, Denoise, DenoiseWithVariance, estimate_noise_norms, randn
from unclip.validation import check_embeds, check_rows, check_shape


class Generated(NamedTuple):
    """What a cascade makes of a batch of captions."""

    image_embeds: Tensor  # (B, E)
    pixels: tuple[Tensor, ...]  # (B, 3, S, S) in [-1, 1] at rising S


@dataclass(frozen=True)
class Cascade:
    """Trained models, in evaluation mode and on one device, and how to sample from them.

    Noise is drawn in the order of the models, and for each first x_T, then what its steps take.
    """

    prior: AnyPrior | None  # None: pictures can be varied, but captions have no embedding
    decoder: AnyDecoder
    upsampler_1: AnyUpsampler
    upsampler_2: AnyUpsampler | None  # None: the first makes the pictures
    sampling: SamplingConfig
    prior_noise_norms: Tensor | None = None  # (prior_steps,), for analytic_dpm

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.decoder.null_image_embeds.device

    @property
    def upsamplers(self) -> dict[str, AnyUpsampler]:
        """By name, in the order in which pictures pass them."""
        second = {} if self.upsampler_2 is None else {"upsampler_2": self.upsampler_2}
        return {"upsampler_1": self.upsampler_1, **second}

    @property
    def models(self) -> dict[str, AnyPrior | AnyDecoder | AnyUpsampler]:
        """All that there are, by name."""
        prior = {} if self.prior is None else {"prior": self.prior}
        return {**prior, "decoder": self.decoder, **self.upsamplers}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rising sides of the pictures, as the decoder and each upsampler make them."""
        made = (self.decoder, *self.upsamplers.values())
        return tuple(model.config.image_size for model in made)

    def __post_init__(self) -> None:
        """Refuse models that do not fit, and a sampler or a guidance that they cannot serve."""
        prior = None if self.prior is None else self.prior.config
        check_compatibility(
            prior, self.decoder.config, [model.config for model in self.upsamplers.values()]
        )
        check_decoder_sampler(self.sampling, self.decoder.config)
        if self.prior is not None:
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
        """Image embeddings for captions, by the prior of any kind; (B, E)."""
        if self.prior is None:
            raise ConfigError(
                "this cascade has no prior, so it varies pictures only; load models with one, or "
                "give `decode` image_embeds"
            )
        check_embeds("text_embeds", text_embeds, self.prior.config.embed_dim)
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
        self,
        prior: DiffusionPrior | KarloPrior,
        tokens: Tensor,
        text_embeds: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Draw candidates for each caption and keep the one closest to z_t; (B, E)."""
        if self.sampling.prior_sampler == "analytic_dpm" and self.prior_noise_norms is None:
            raise ConfigError(
                "sampling.prior_sampler='analytic_dpm' needs noise norms; sample from the cascade "
                "that `with_prior_noise_norms` returns"
            )
        candidates = self.sampling.prior_candidates
        noise = self._randn((len(tokens) * candidates, prior.config.embed_dim), generator)
        with self._autocast():
            denoise = prior_denoiser(
                prior,
                tokens.repeat_interleave(candidates, dim=0),
                text_embeds.repeat_interleave(candidates, dim=0),
                guidance_scale=self.sampling.prior_guidance_scale,
            )
            drawn = self._sample(prior, "prior", denoise, noise, generator)
        drawn = rearrange(prior.to_image_space(drawn), "(b k) e -> b k e", k=candidates)
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

        image_embeds: (B, E); tokens: (B, L) int64; noise: (B, 3, S, S), the x_T to start
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

    def upsample(self, pixels: Tensor, *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """(B, 3, s, s) in [-1, 1], of any height and width, to each of the larger sizes."""
        made = [pixels]
        for name, model in self.upsamplers.items():
            made.append(self._upsample(model, name, made[-1], generator))
        return tuple(made[1:])

    @torch.no_grad()
    def _upsample(
        self, model: AnyUpsampler, name: str, pixels: Tensor, generator: torch.Generator
    ) -> Tensor:
        with self._autocast():
            enlarged = model.condition(pixels)
            noise = self._randn(tuple(enlarged.shape), generator)
            denoise = upsampler_denoiser(model, enlarged)
            drawn = self._sample(model, name, denoise, noise, generator)
        return model.to_pixels(drawn, enlarged).clamp(-1, 1)

    def _sample(
        self,
        model: DiffusionPrior | KarloPrior | AnyDecoder | AnyUpsampler,
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
    """Of the candidates (B, K, E), the one of the smallest angle to (B, E); (B, E)."""
    directions = F.normalize(candidates, dim=-1)
    best = torch.einsum("bke,be->bk", directions, text_embeds.float()).argmax(dim=1)  # (B,)
    return candidates[torch.arange(len(candidates), device=candidates.device), best]


def with_prior_noise_norms(
    cascade: Cascade, batch: Mapping[str, Tensor], *, generator: torch.Generator
) -> Cascade:
    """The cascade, ready for sampling from its prior with analytic_dpm.

    batch: "tokens" (B, L), "text_embeds" and "image_embeds" (B, E), of real pairs; some dozens are
    enough, because each step needs one number.
    """
    prior, sampling = cascade.prior, cascade.sampling
    if prior is None or isinstance(prior, ARPrior):
        raise ConfigError(
            "only a diffusion prior has noise to estimate norms of; sample from this as it is"
        )
    image_embeds = prior.standardise(batch["image_embeds"].to(cascade.device))
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
