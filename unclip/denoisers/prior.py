"""The denoiser of a diffusion prior."""

# B batch, L tokens of the captions, E width of the CLIP embeddings

from typing import Any

from torch import Tensor

from unclip.denoisers.guidance import clamp_static, copies_for, guide, unconditional_rows
from unclip.samplers import Denoise


def prior_denoiser(
    model: Any, tokens: Tensor, text_embeds: Tensor, *, guidance_scale: float
) -> Denoise:
    """Predicts the guided x_0 (B, E), a standardised image embedding.

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
