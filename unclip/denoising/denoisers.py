"""Denoisers for priors, decoders and upsamplers: the functions that samplers call."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, S image size

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unclip.denoising.guidance import (
    clamp_static,
    copies_for,
    guide,
    threshold_dynamic,
    unconditional_rows,
)
from unclip.diffusion import schedule_of, to_x_start
from unclip.samplers import Denoise, DenoiseWithVariance
from unclip.validation import check_embeds, check_rows

# Maps x_t (B, 3, S, S), timesteps (B,) and the enlarged image (B, 3, S, S) to the prediction.
Network = Callable[[Tensor, Tensor, Tensor], Tensor]


def prior_denoiser(
    model: Any, tokens: Tensor, text_embeds: Tensor, *, guidance_scale: float
) -> Denoise:
    """A denoiser that predicts the guided x_0 (B, E), a standardised image embedding.

    model: a `DiffusionPrior` or one with the same methods; tokens: (B, L) int64; text_embeds:
    (B, E) unit-norm.
    """
    copies = copies_for(guidance_scale)
    dropped = unconditional_rows(len(tokens), copies, tokens.device)
    condition = model.condition(tokens.repeat(copies, 1), text_embeds.repeat(copies, 1), dropped)
    condition = model.precompute(condition)
    limit = model.config.x_start_limit

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        x_start: Tensor = model(x.repeat(copies, 1), timesteps.repeat(copies), condition)
        x_start = guide(x_start.float(), copies, guidance_scale)
        return x_start if limit is None else clamp_static(x_start, limit=limit)

    return denoise


def decoder_denoiser(
    model: Any,
    image_embeds: Tensor | None,
    tokens: Tensor | None,
    *,
    guidance_scale: float,
    dynamic_threshold: float | None,
) -> DenoiseWithVariance:
    """A denoiser that predicts the guided x_0 in [-1, 1] and the unguided variance output.

    model: a `Decoder` or one with the same methods; image_embeds: (B, E); tokens: (B, L) int64;
    None for either means the learned null. The unconditional prediction drops both. If the model
    has no learned variance, the variance output is empty: (B, 0, S, S).
    """
    config, copies = model.config, copies_for(guidance_scale)
    condition = model.precompute(_decoder_condition(model, image_embeds, tokens, copies))
    schedule = schedule_of(config, condition.embedding.device)

    def denoise(x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        count = len(x)
        x, timesteps = x.repeat(copies, 1, 1, 1), timesteps.repeat(copies)
        output = model(x, timesteps, condition).float()
        predicted, variance = output[:, :3], output[:count, 3:]
        x_start = to_x_start(config.prediction, predicted, x, timesteps, schedule=schedule)
        x_start = guide(x_start, copies, guidance_scale)
        if dynamic_threshold is None:
            return clamp_static(x_start), variance
        return threshold_dynamic(x_start, quantile=dynamic_threshold), variance

    return denoise


def without_variance(denoise: DenoiseWithVariance) -> Denoise:
    """The denoiser without its variance output, for samplers with a fixed variance."""

    def predict(x: Tensor, timesteps: Tensor) -> Tensor:
        return denoise(x, timesteps)[0]

    return predict


def _decoder_condition(
    model: Any, image_embeds: Tensor | None, tokens: Tensor | None, copies: int
) -> Any:
    """The given conditions for the first copy of the batch, nulls for the second (if any)."""
    given = image_embeds if image_embeds is not None else tokens
    assert given is not None
    count, device = len(given), given.device
    if image_embeds is not None:
        check_embeds("image_embeds", image_embeds, model.config.embed_dim)
    if image_embeds is not None and tokens is not None:
        check_rows(image_embeds=image_embeds, tokens=tokens)
    unguided = unconditional_rows(count, copies, device)  # (copies * B,)
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


def upsampler_denoiser(model: Any, enlarged: Tensor, *, network: Network | None = None) -> Denoise:
    """A denoiser that predicts x_0 such that its pixels lie in [-1, 1].

    x_0 is what the model diffuses: the image, or its scaled difference from the enlarged image. It
    is converted to pixels, clamped and converted back.

    model: an `Upsampler` or one with the same methods; enlarged: (B, 3, S, S) from its `condition`;
    network: called instead of the model, if given.
    """
    schedule, config = schedule_of(model.config, enlarged.device), model.config
    predict = network or model

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        output: Tensor = predict(x, timesteps, enlarged)
        x_start = to_x_start(config.prediction, output.float(), x, timesteps, schedule=schedule)
        diffused: Tensor = model.to_diffused(
            clamp_static(model.to_pixels(x_start, enlarged)), enlarged
        )
        return diffused

    return denoise
