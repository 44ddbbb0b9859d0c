"""The denoiser of a decoder."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, S image size

from typing import Any

import torch
from torch import Tensor

from unclip.denoisers.guidance import (
    clamp_static,
    copies_for,
    guide,
    threshold_dynamic,
    unconditional_rows,
)
from unclip.diffusion import schedule_of, to_x_start
from unclip.samplers import Denoise, DenoiseWithVariance
from unclip.validation import check_embeds, check_rows


def decoder_denoiser(
    model: Any,
    image_embeds: Tensor | None,
    tokens: Tensor | None,
    *,
    guidance_scale: float,
    dynamic_threshold: float | None,
) -> DenoiseWithVariance:
    """Predicts the guided x_0 in [-1, 1] and, unguided, the output for its variance.

    model: a `Decoder` or one with the same methods; image_embeds: (B, E); tokens: (B, L) int64;
    None stands for the learned null. Guidance leads away from the prediction without embedding and
    caption. Without a learned variance the second tensor is empty: (B, 0, S, S).
    """
    config, copies = model.config, copies_for(guidance_scale)
    condition = model.precompute(_condition(model, image_embeds, tokens, copies))
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
    """The same denoiser for a sampler that has a variance of its own."""

    def predict(x: Tensor, timesteps: Tensor) -> Tensor:
        return denoise(x, timesteps)[0]

    return predict


def _condition(model: Any, image_embeds: Tensor | None, tokens: Tensor | None, copies: int) -> Any:
    """The given conditions for the first copy of the batch, and nulls for the second."""
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
