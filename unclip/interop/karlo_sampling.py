"""Karlo from a caption or picture to an image: ancestral sampling with the learned variance."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, S image size, s the smaller one

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.config import Config, ConfigError
from unclip.diffusion import x_start_from_noise
from unclip.guidance import clamp_static, classifier_free
from unclip.models import KarloDecoder, KarloPrior, KarloUpsampler
from unclip.samplers import randn
from unclip.schedules import Schedule, make_schedule, respaced_timesteps

# From x_t (B, ...) and timesteps (B,) to x_0 and, where the variance is learned, its place between
# the smallest (-1) and the largest (1), both (B, ...).
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, kw_only=True)
class KarloSampling(Config):
    """How to sample from Karlo's models."""

    prior_steps: int
    prior_guidance_scale: float  # 1: no guidance
    decoder_steps: int
    decoder_guidance_scale: float
    upsampler_steps: int
    bf16: bool  # autocast to bfloat16


KARLO_SAMPLING = KarloSampling(  # what its authors recommend, at the smaller number of steps
    prior_steps=25,
    prior_guidance_scale=4.0,
    decoder_steps=25,
    decoder_guidance_scale=8.0,
    upsampler_steps=7,
    bf16=False,
)


class KarloImages(NamedTuple):
    """What Karlo makes of a batch of captions or pictures."""

    image_embeds: Tensor  # (B, E), not normalised
    small: Tensor  # (B, 3, s, s) in [-1, 1]
    large: Tensor  # (B, 3, S, S) in [-1, 1]


@torch.no_grad()
def ancestral(
    predict: Predict,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: torch.Generator,
    predict_last: Predict | None = None,
) -> Tensor:
    """DDPM on fewer timesteps (Nichol and Dhariwal 2021, sections 3.1 and 4).

    The variance is the smallest that a step can have, or what the network says between that and the
    largest, on a logarithmic scale. predict_last: what to ask at the last step, where it differs.
    """
    steps = respaced_timesteps(schedule.train_timesteps, num_inference_steps)
    levels = schedule.alphas_cumprod[steps].tolist()
    for step, level, previous in zip(steps[:-1], levels[:-1], levels[1:], strict=True):
        x_start, place = predict(x, _full(x, step))
        mean = posterior_mean(x_start, x, level=level, previous=previous)
        noise = randn(tuple(x.shape), generator=generator, device=x.device)
        x = mean + noise * _deviation(place, x, level=level, previous=previous)
    return (predict_last or predict)(x, _full(x, steps[-1]))[0]  # its mean, where ᾱ becomes 1


def posterior_mean(x_start: Tensor, x: Tensor, *, level: float, previous: float) -> Tensor:
    """Of x at ᾱ = previous, given x_0 and x at ᾱ = level (DDPM eq. 7)."""
    beta = 1 - level / previous
    of_x_start = math.sqrt(previous) * beta / (1 - level)
    of_x = math.sqrt(1 - beta) * (1 - previous) / (1 - level)
    return of_x_start * x_start + of_x * x


def _deviation(place: Tensor | None, x: Tensor, *, level: float, previous: float) -> Tensor:
    """The standard deviation of a step (Nichol and Dhariwal 2021, eq. 15); like x."""
    largest = torch.tensor(1 - level / previous, dtype=torch.float64)
    smallest = largest * (1 - previous) / (1 - level)
    if place is None:
        return smallest.sqrt().to(x)
    fraction = (place + 1) / 2
    log_variance = fraction * largest.log().to(x) + (1 - fraction) * smallest.log().to(x)
    return (log_variance / 2).exp()


def _full(x: Tensor, step: int) -> Tensor:
    return torch.full((len(x),), step, dtype=torch.int64, device=x.device)  # (B,)


def prior_predict(model: KarloPrior, tokens: Tensor, *, guidance_scale: float) -> Predict:
    """The guided, standardised image embedding, kept within the prior's limit."""
    copies = 1 if guidance_scale == 1 else 2
    dropped = _second_half(len(tokens), copies, tokens.device)
    condition = model.remember(model.condition(tokens.repeat(copies, 1), None, dropped))

    def predict(x: Tensor, timesteps: Tensor) -> tuple[Tensor, None]:
        x_start: Tensor = model(x.repeat(copies, 1), timesteps.repeat(copies), condition)
        x_start = _guide(x_start.float(), copies, guidance_scale)
        return clamp_static(x_start, limit=model.config.x_start_limit), None

    return predict


def decoder_predict(
    model: KarloDecoder, image_embeds: Tensor, tokens: Tensor, *, guidance_scale: float
) -> Predict:
    """The guided x_0 in [-1, 1], and the variance as the conditional half of the batch has it."""
    copies, count = 1 if guidance_scale == 1 else 2, len(tokens)
    dropped = _second_half(count, copies, tokens.device)
    condition = model.condition(
        image_embeds.repeat(copies, 1),
        tokens.repeat(copies, 1),
        drop_image=dropped,
        drop_text=dropped,
    )
    condition = model.remember(condition)
    schedule = schedule_of(model, image_embeds.device)

    def predict(x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        output: Tensor = model(x.repeat(copies, 1, 1, 1), timesteps.repeat(copies), condition)
        noise, place = output.float().chunk(2, dim=1)
        noise = _guide(noise, copies, guidance_scale)
        x_start = x_start_from_noise(noise, x, timesteps, schedule=schedule)
        return clamp_static(x_start), place[:count]

    return predict


def upsampler_predict(model: KarloUpsampler, enlarged: Tensor, *, last: bool) -> Predict:
    """x_0 in [-1, 1] by either network; enlarged: (B, 3, S, S) from the model's `condition`."""
    schedule = schedule_of(model, enlarged.device)
    network = model.forward_last if last else model.forward

    def predict(x: Tensor, timesteps: Tensor) -> tuple[Tensor, None]:
        noise = network(x, timesteps, enlarged).float()
        return clamp_static(x_start_from_noise(noise, x, timesteps, schedule=schedule)), None

    return predict


def schedule_of(
    model: KarloPrior | KarloDecoder | KarloUpsampler, device: torch.device
) -> Schedule:
    """The noise schedule that the model was trained with."""
    config = model.config
    return make_schedule(config.schedule, train_timesteps=config.train_timesteps, device=device)


def _guide(predicted: Tensor, copies: int, guidance_scale: float) -> Tensor:
    """The first half of the batch away from the second, where there are two."""
    if copies == 1:
        return predicted
    conditional, unconditional = predicted.chunk(2)
    return classifier_free(conditional, unconditional, guidance_scale=guidance_scale)


def _second_half(count: int, copies: int, device: torch.device) -> Tensor:
    """False for the first `count` rows and True for their copies; (copies * count,) bool."""
    return torch.arange(copies * count, device=device) >= count


@dataclass(frozen=True)
class KarloCascade:
    """Karlo's models, in evaluation mode and on one device, and how to sample from them.

    Image embeddings are CLIP's own, not normalised. Noise is drawn in the order prior, decoder,
    upsampler, and in each first x_T, then a draw per step.
    """

    prior: KarloPrior | None  # None: pictures can be varied, but captions have no embedding
    decoder: KarloDecoder
    upsampler: KarloUpsampler
    sampling: KarloSampling

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.decoder.null_image_embeds.device

    def generate(self, tokens: Tensor, *, generator: torch.Generator) -> KarloImages:
        """Images for captions; tokens: (B, L) int64 from start to end token, padded with 0."""
        image_embeds = self.sample_image_embeds(tokens, generator=generator)
        small = self.decode(image_embeds, tokens, generator=generator)
        return KarloImages(image_embeds, small, self.upsample(small, generator=generator))

    @torch.no_grad()
    def sample_image_embeds(self, tokens: Tensor, *, generator: torch.Generator) -> Tensor:
        """An image embedding for each caption; (B, E)."""
        if self.prior is None:
            raise ConfigError(
                "this Karlo has no prior, so it varies pictures only; read a folder that has one, "
                "or give `decode` image_embeds"
            )
        noise = self._randn((len(tokens), self.prior.config.embed_width), generator)
        with self._autocast():
            predict = prior_predict(
                self.prior, tokens, guidance_scale=self.sampling.prior_guidance_scale
            )
            drawn = ancestral(
                predict,
                noise,
                schedule=schedule_of(self.prior, self.device),
                num_inference_steps=self.sampling.prior_steps,
                generator=generator,
            )
        return self.prior.to_image_space(drawn)

    @torch.no_grad()
    def decode(
        self, image_embeds: Tensor, tokens: Tensor | None, *, generator: torch.Generator
    ) -> Tensor:
        """Small images of image embeddings (B, E) and captions (B, L), None for no caption."""
        if tokens is None:
            blank = torch.zeros(len(image_embeds), 2, dtype=torch.int64, device=self.device)
            tokens = self.decoder.text_encoder.drop(blank, blank[:, 0] == 0)
        size = self.decoder.config.image_size
        noise = self._randn((len(tokens), 3, size, size), generator)
        with self._autocast():
            predict = decoder_predict(
                self.decoder,
                image_embeds,
                tokens,
                guidance_scale=self.sampling.decoder_guidance_scale,
            )
            return ancestral(
                predict,
                noise,
                schedule=schedule_of(self.decoder, self.device),
                num_inference_steps=self.sampling.decoder_steps,
                generator=generator,
            )

    @torch.no_grad()
    def upsample(self, pixels: Tensor, *, generator: torch.Generator) -> Tensor:
        """(B, 3, s, s) in [-1, 1] to (B, 3, S, S)."""
        size = self.upsampler.config.image_size
        noise = self._randn((len(pixels), 3, size, size), generator)
        with self._autocast():
            enlarged = self.upsampler.condition(pixels)
            return ancestral(
                upsampler_predict(self.upsampler, enlarged, last=False),
                noise,
                schedule=schedule_of(self.upsampler, self.device),
                num_inference_steps=self.sampling.upsampler_steps,
                generator=generator,
                predict_last=upsampler_predict(self.upsampler, enlarged, last=True),
            )

    def _randn(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return randn(shape, generator=generator, device=self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.sampling.bf16)
