"""Layers that several models share."""

# B batch, D width, h heads, N queries, M keys, d width of a head

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.models.kernels import uses_cpu_code

_Affine = TypeVar("_Affine", nn.Linear, nn.Conv2d)


def zero_init(module: _Affine) -> _Affine:
    """Set weights and bias to zero, so that a residual block starts as the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def sinusoids(timesteps: Tensor, width: int, *, max_period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of timesteps at falling frequencies; (B,) -> (B, width) float32."""
    exponents = torch.arange(width // 2, device=timesteps.device) / (width // 2)
    frequencies = torch.exp(-math.log(max_period) * exponents)  # (D/2,)
    angles = timesteps.float()[:, None] * frequencies  # (B, D/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # (B, D)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention; q: (B, h, N, d); k, v: (B, h, M, d); mask: True to attend.

    On a CPU, bfloat16 inputs are attended to in float32 during training, because the backward pass
    of the fused kernel is several times slower in bfloat16.
    """
    if uses_cpu_code(q) and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):
            wide = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
        return wide.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class TimestepEmbedding(nn.Module):
    """Sinusoids of the timestep, followed by a two-layer MLP."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        """(B,) int64 -> (B, D)."""
        weight: Tensor = self.mlp[0].weight  # type: ignore[assignment]
        waves = sinusoids(timesteps, self.frequencies).to(weight.dtype)
        embedding: Tensor = self.mlp(waves)
        return embedding
