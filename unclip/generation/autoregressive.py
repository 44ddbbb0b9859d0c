"""Sampling from the autoregressive prior: code by code, from noise that is drawn beforehand."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, K components, k codes so far

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.generation.guidance import classifier_free
from unclip.models.ar_prior import ARPrior
from unclip.models.prior import PriorCondition
from unclip.samplers import randn

# From the codes so far (B, k) to the logits of the next (B, buckets).
NextLogits = Callable[[Tensor], Tensor]


@torch.no_grad()
def sample_codes(
    model: ARPrior,
    tokens: Tensor,
    text_embeds: Tensor,
    *,
    guidance_scale: float,
    temperature: float,
    generator: torch.Generator | None,
    cached: bool = True,
) -> Tensor:
    """Codes for captions; (B, K) int64.

    tokens: (B, L) int64; text_embeds: (B, E) unit-norm; guidance_scale: 1 for none; temperature:
    divides the logits. One normal number decides each token, as noise does in a diffusion.
    """
    config = model.config
    shape = (len(tokens), 1 + config.dimensions)
    noise = randn(shape, generator=generator, device=tokens.device)
    uniform = torch.special.ndtr(noise.double())  # (B, 1 + K) in [0, 1]
    dots = draw_dots(uniform[:, 0], bins=config.dot_bins)
    copies = 1 if guidance_scale == 1 else 2
    dropped = torch.arange(copies * len(tokens), device=tokens.device) >= len(tokens)
    condition = model.condition(
        tokens.repeat(copies, 1), text_embeds.repeat(copies, 1), dots.repeat(copies), dropped
    )
    following = cached_logits(model, condition) if cached else uncached_logits(model, condition)
    codes = tokens.new_empty(len(tokens), 0)
    for place in range(config.dimensions):
        logits = following(codes.repeat(copies, 1)).float()  # (copies * B, buckets)
        if copies == 2:
            conditional, unconditional = logits.chunk(2)
            logits = classifier_free(conditional, unconditional, guidance_scale=guidance_scale)
        drawn = draw(logits / temperature, uniform[:, 1 + place])
        codes = torch.cat([codes, drawn[:, None]], dim=1)  # (B, k + 1)
    return codes


def cached_logits(model: ARPrior, condition: PriorCondition) -> NextLogits:
    """Computes each token once, and keeps its keys and values."""
    caches = model.new_caches()

    def following(codes: Tensor) -> Tensor:
        logits: Tensor = model(codes, condition, caches)[:, -1]
        return logits

    return following


def uncached_logits(model: ARPrior, condition: PriorCondition) -> NextLogits:
    """Computes the whole sequence anew for each code."""

    def following(codes: Tensor) -> Tensor:
        logits: Tensor = model(codes, condition)[:, -1]
        return logits

    return following


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """From each row of logits (B, buckets) the class at its quantile `uniform` (B,); (B,) int64."""
    cumulative = logits.double().softmax(-1).cumsum(-1)  # (B, buckets)
    places = torch.searchsorted(cumulative, uniform[:, None].contiguous(), right=True)[:, 0]
    return places.clamp(max=logits.shape[-1] - 1)


def draw_dots(uniform: Tensor, *, bins: int) -> Tensor:
    """A bin of the top half of the training distribution, whose bins are equally frequent; (B,)."""
    half = bins // 2
    return half + (uniform * half).long().clamp(max=half - 1)
