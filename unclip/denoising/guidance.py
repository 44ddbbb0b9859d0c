"""Classifier-free guidance, and clamping and thresholding of a guided x_0."""

# B batch; predictions (B, ...)

import torch
from torch import Tensor


def classifier_free(conditional: Tensor, unconditional: Tensor, *, guidance_scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2021); scale 1 is the conditional prediction.

    The result is the same for ε, v and x_0, because they are affine in each other at one x_t.
    """
    return unconditional + guidance_scale * (conditional - unconditional)


def clamp_static(x_start: Tensor, *, limit: float = 1.0) -> Tensor:
    """Clamp to [-limit, limit], the range of the data."""
    return x_start.clamp(-limit, limit)


def threshold_dynamic(x_start: Tensor, *, quantile: float) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3), per sample.

    Takes the given quantile of |x_0|, at least 1, as the limit. Clamps x_0 to the limit and divides
    by it, so that guided samples do not saturate. The result lies in [-1, 1].
    """
    limit = x_start.flatten(1).abs().float().quantile(quantile, dim=1).clamp(min=1.0)  # (B,)
    limit = limit.to(x_start.dtype).view(-1, *[1] * (x_start.ndim - 1))
    return x_start.clamp(-limit, limit) / limit


def copies_for(guidance_scale: float) -> int:
    """Copies of the batch in one forward pass: 1 for guidance_scale 1, otherwise 2."""
    return 1 if guidance_scale == 1 else 2


def unconditional_rows(count: int, copies: int, device: torch.device) -> Tensor:
    """False for the first `count` rows and True for their copies; (copies * count,) bool."""
    return torch.arange(copies * count, device=device) >= count


def guide(predicted: Tensor, copies: int, guidance_scale: float) -> Tensor:
    """Guided prediction (B, ...) from predictions (copies * B, ...), conditional rows first."""
    if copies == 1:
        return predicted
    conditional, unconditional = predicted.chunk(2)
    return classifier_free(conditional, unconditional, guidance_scale=guidance_scale)
