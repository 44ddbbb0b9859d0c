"""Guidance at sampling time, and keeping a guided x_0 within range."""

# B batch; predictions (B, ...)

from torch import Tensor


def classifier_free(conditional: Tensor, unconditional: Tensor, *, guidance_scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2021): scale 1 is the conditional prediction.

    The result is the same in ε, v or x_0, which are affine in each other at one x_t.
    """
    return unconditional + guidance_scale * (conditional - unconditional)


def clamp_static(x_start: Tensor, *, limit: float = 1.0) -> Tensor:
    """Clamp to [-limit, limit], the range of the data."""
    return x_start.clamp(-limit, limit)


def threshold_dynamic(x_start: Tensor, *, quantile: float) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3), per sample.

    Clamps to the given quantile of |x_0|, where that exceeds 1, and divides by it: guided samples
    keep their contrast in place of saturating. The result lies in [-1, 1].
    """
    limit = x_start.flatten(1).abs().float().quantile(quantile, dim=1).clamp(min=1.0)  # (B,)
    limit = limit.to(x_start.dtype).view(-1, *[1] * (x_start.ndim - 1))
    return x_start.clamp(-limit, limit) / limit
