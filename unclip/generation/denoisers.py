"""What a sampler asks of a model: a function from x_t to the guided x_0.

Captions and embeddings are encoded once, before the first step. Guidance runs the model on a batch
of two halves, with the condition and without.
"""

# B batch, L tokens of the captions, E width of the CLIP embeddings, S image size

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.diffusion import Schedule, make_schedule, to_x_start
from unclip.generation.guidance import clamp_static, classifier_free, threshold_dynamic
from unclip.models import (
    AnyDecoder,
    AnyUpsampler,
    DiffusionPrior,
    KarloPrior,
    KarloUpsampler,
)
from unclip.models.decoder import DecoderCondition
from unclip.samplers import Denoise, DenoiseWithVariance
from unclip.validation import check_embeds, check_rows


def prior_denoiser(
    model: DiffusionPrior | KarloPrior,
    tokens: Tensor,
    text_embeds: Tensor,
    *,
    guidance_scale: float,
) -> Denoise:
    """The prior's guided x_0, as the model standardises image embeddings."""
    copies = 1 if guidance_scale == 1 else 2
    dropped = _second_half(len(tokens), copies, tokens.device)
    condition = model.condition(tokens.repeat(copies, 1), text_embeds.repeat(copies, 1), dropped)
    condition = model.precompute(condition)

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        x_start: Tensor = model(x.repeat(copies, 1), timesteps.repeat(copies), condition)
        x_start = _guide(x_start.float(), copies, guidance_scale)
        limit = model.config.x_start_limit
        return x_start if limit is None else clamp_static(x_start, limit=limit)

    return denoise


def decoder_denoiser(
    model: AnyDecoder,
    image_embeds: Tensor | None,
    tokens: Tensor | None,
    *,
    guidance_scale: float,
    dynamic_threshold: float | None,
) -> Denoise:
    """The decoder's guided x_0 in [-1, 1]; guidance is away from neither embedding nor caption."""
    denoise_with_variance = decoder_denoiser_with_variance(
        model,
        image_embeds,
        tokens,
        guidance_scale=guidance_scale,
        dynamic_threshold=dynamic_threshold,
    )

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        return denoise_with_variance(x, timesteps)[0]

    return denoise


def decoder_denoiser_with_variance(
    model: AnyDecoder,
    image_embeds: Tensor | None,
    tokens: Tensor | None,
    *,
    guidance_scale: float,
    dynamic_threshold: float | None,
) -> DenoiseWithVariance:
    """As `decoder_denoiser`, with the conditional variance beside x_0: guidance leaves it alone.

    Without a learned variance the second tensor is empty: (B, 0, S, S).
    """
    config, copies = model.config, 1 if guidance_scale == 1 else 2
    condition = model.precompute(_decoder_condition(model, image_embeds, tokens, copies))
    schedule = schedule_of(model, condition.embedding.device)

    def denoise(x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        count = len(x)
        x, timesteps = x.repeat(copies, 1, 1, 1), timesteps.repeat(copies)
        output = model(x, timesteps, condition).float()
        predicted, variance = output[:, :3], output[:count, 3:]
        x_start = to_x_start(config.prediction, predicted, x, timesteps, schedule=schedule)
        x_start = _guide(x_start, copies, guidance_scale)
        if dynamic_threshold is None:
            return clamp_static(x_start), variance
        return threshold_dynamic(x_start, quantile=dynamic_threshold), variance

    return denoise


def _decoder_condition(
    model: AnyDecoder, image_embeds: Tensor | None, tokens: Tensor | None, copies: int
) -> DecoderCondition:
    """What is given for the first copy of the batch, and nulls for the second."""
    given = image_embeds if image_embeds is not None else tokens
    assert given is not None
    count, device = len(given), given.device
    if image_embeds is not None:
        check_embeds("image_embeds", image_embeds, model.config.embed_dim)
    if image_embeds is not None and tokens is not None:
        check_rows(image_embeds=image_embeds, tokens=tokens)
    unguided = _second_half(count, copies, device)  # (copies * B,)
    all_rows = torch.ones_like(unguided)
    drop_image = all_rows if image_embeds is None else unguided
    drop_text = all_rows if tokens is None else unguided
    if image_embeds is None:
        image_embeds = torch.zeros(count, model.config.embed_dim, device=device)
    if tokens is None:
        tokens = torch.zeros(count, 1, dtype=torch.int64, device=device)
    return model.condition(
        image_embeds.repeat(copies, 1),
        tokens.repeat(copies, 1),
        drop_image=drop_image,
        drop_text=drop_text,
    )


def upsampler_denoiser(model: AnyUpsampler, enlarged: Tensor) -> Denoise:
    """The upsampler's x_0, as it is noised, whose pixels are in [-1, 1].

    enlarged: (B, 3, S, S) from the model's `condition`.
    """
    schedule = schedule_of(model, enlarged.device)

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        output: Tensor = _network(model, timesteps)(x, timesteps, enlarged)
        x_start = to_x_start(
            model.config.prediction, output.float(), x, timesteps, schedule=schedule
        )
        return model.to_diffused(clamp_static(model.to_pixels(x_start, enlarged)), enlarged)

    return denoise


def _network(model: AnyUpsampler, timesteps: Tensor) -> Callable[..., Tensor]:
    """Karlo's upsampler has a network of its own for the last timestep."""
    if isinstance(model, KarloUpsampler) and int(timesteps[0]) == 0:
        return model.forward_last
    return model


def _guide(x_start: Tensor, copies: int, guidance_scale: float) -> Tensor:
    """The first half of the batch away from the second, where there are two."""
    if copies == 1:
        return x_start
    conditional, unconditional = x_start.chunk(2)
    return classifier_free(conditional, unconditional, guidance_scale=guidance_scale)


def _second_half(count: int, copies: int, device: torch.device) -> Tensor:
    """False for the first `count` rows and True for their copies; (copies * count,) bool."""
    return torch.arange(copies * count, device=device) >= count


def schedule_of(
    model: DiffusionPrior | KarloPrior | AnyDecoder | AnyUpsampler, device: torch.device
) -> Schedule:
    """The noise schedule that the model was trained with."""
    config = model.config
    return make_schedule(config.schedule, train_timesteps=config.train_timesteps, device=device)
