"""The whole generator as one object: caption -> image embedding -> small image -> large image."""

# B batch, L context length, E width of the CLIP embeddings, S image size, K candidates

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.diffusion import to_x_start
from unclip.guidance import clamp_static, classifier_free, threshold_dynamic
from unclip.models import Decoder, DiffusionPrior, Upsampler
from unclip.samplers import Denoise, ddim, randn
from unclip.schedules import Schedule, make_schedule


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """How to sample from each model of a cascade."""

    prior_steps: int
    prior_guidance_scale: float  # 1: no guidance
    prior_candidates: int  # image embeddings drawn per caption; the closest to z_t is kept
    decoder_steps: int
    decoder_guidance_scale: float
    dynamic_threshold: float | None  # quantile of |x_0| in the decoder; None clamps to [-1, 1]
    upsampler_1_steps: int
    upsampler_2_steps: int
    eta: float  # 0: DDIM, deterministic in the first noise; 1: as much noise as ancestral sampling
    bf16: bool  # autocast to bfloat16

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if self.prior_candidates < 1:
            raise ConfigError(
                f"sampling.prior_candidates={self.prior_candidates} must be at least 1; "
                "the paper draws 2"
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

    prior: DiffusionPrior
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
        """Draw candidates for each caption and keep the one closest to z_t; (B, E) unit-norm."""
        candidates = self.sampling.prior_candidates
        noise = self._randn((len(tokens) * candidates, self.prior.config.embed_width), generator)
        with self._autocast():
            denoise = prior_denoiser(
                self.prior,
                tokens.repeat_interleave(candidates, dim=0),
                text_embeds.repeat_interleave(candidates, dim=0),
                guidance_scale=self.sampling.prior_guidance_scale,
            )
            drawn = self._ddim(self.prior, denoise, noise, self.sampling.prior_steps, generator)
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
            denoise = upsampler_denoiser(model, pixels)
            large = self._ddim(model, denoise, noise, steps, generator)
        return large.clamp(-1, 1)

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
            schedule=_schedule_of(model, noise.device),
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


def prior_denoiser(
    model: DiffusionPrior, tokens: Tensor, text_embeds: Tensor, *, guidance_scale: float
) -> Denoise:
    """The prior's guided x_0, scaled back to unit-norm embeddings times the embedding scale."""
    copies = 1 if guidance_scale == 1 else 2
    dropped = _second_half(len(tokens), copies, tokens.device)
    condition = model.condition(tokens.repeat(copies, 1), text_embeds.repeat(copies, 1), dropped)

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        x_start: Tensor = model(x.repeat(copies, 1), timesteps.repeat(copies), condition)
        return _guide(x_start.float(), copies, guidance_scale)

    return denoise


def decoder_denoiser(
    model: Decoder,
    image_embeds: Tensor | None,
    tokens: Tensor | None,
    *,
    guidance_scale: float,
    dynamic_threshold: float | None,
) -> Denoise:
    """The decoder's guided x_0 in [-1, 1]; guidance is away from neither embedding nor caption."""
    config, device = model.config, model.null_image_embeds.device
    copies = 1 if guidance_scale == 1 else 2
    count = len(image_embeds if image_embeds is not None else tokens)  # type: ignore[arg-type]
    unguided = _second_half(count, copies, device)
    if tokens is None:
        length = config.text_encoder.context_length
        tokens = torch.zeros(count, length, dtype=torch.int64, device=device)
        drop_text = torch.ones_like(unguided)
    else:
        drop_text = unguided
    if image_embeds is None:
        image_embeds = torch.zeros(count, config.embed_width, device=device)
        drop_image = torch.ones_like(unguided)
    else:
        drop_image = unguided
    condition = model.condition(
        image_embeds.repeat(copies, 1),
        tokens.repeat(copies, 1),
        drop_image=drop_image,
        drop_text=drop_text,
    )
    schedule = _schedule_of(model, device)

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        x, timesteps = x.repeat(copies, 1, 1, 1), timesteps.repeat(copies)
        output: Tensor = model(x, timesteps, condition)
        x_start = to_x_start(config.prediction, output.float(), x, timesteps, schedule=schedule)
        x_start = _guide(x_start, copies, guidance_scale)
        if dynamic_threshold is None:
            return clamp_static(x_start)
        return threshold_dynamic(x_start, quantile=dynamic_threshold)

    return denoise


def upsampler_denoiser(model: Upsampler, low_res: Tensor) -> Denoise:
    """The upsampler's x_0 in [-1, 1], given the image that it enlarges: (B, 3, s, s)."""
    enlarged = model.condition(low_res)
    schedule = _schedule_of(model, low_res.device)

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        output: Tensor = model(x, timesteps, enlarged)
        x_start = to_x_start(
            model.config.prediction, output.float(), x, timesteps, schedule=schedule
        )
        return clamp_static(x_start)

    return denoise


def _guide(x_start: Tensor, copies: int, guidance_scale: float) -> Tensor:
    """The first half of the batch away from the second, where there are two."""
    if copies == 1:
        return x_start
    conditional, unconditional = x_start.chunk(2)
    return classifier_free(conditional, unconditional, guidance_scale=guidance_scale)


def _second_half(count: int, copies: int, device: torch.device) -> Tensor:
    """False for the first `count` rows and True for their copies; (copies * count,) bool."""
    return torch.arange(copies * count, device=device) >= count


def _schedule_of(model: DiffusionPrior | Decoder | Upsampler, device: torch.device) -> Schedule:
    config = model.config
    return make_schedule(config.schedule, train_timesteps=config.train_timesteps, device=device)
