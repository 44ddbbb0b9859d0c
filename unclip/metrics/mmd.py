"""The maximum mean discrepancy of CLIP embeddings.

Shape legend: N, M samples, D embedding width.
"""

import torch
from torch import Tensor

_CHUNK = 2048  # rows of the kernel matrix at a time


def cmmd(a: Tensor, b: Tensor, *, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD (Jayasumana et al. 2024, eq. 4) of unit-norm image_embeds `a` (N, D) and `b` (M, D).

    The unbiased estimate of the squared MMD under the kernel exp(−|x − y|² / 2σ²), times `scale`.
    For samples of the same distribution it is about 0, and can be slightly negative.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"cmmd needs at least 2 embeddings in each set, not {len(a)} and {len(b)}")
    x, y = a.double(), b.double()  # float64: kernel values lie between 0.98 and 1
    within_x = (_kernel_sum(x, x, sigma) - len(x)) / (len(x) * (len(x) - 1))
    within_y = (_kernel_sum(y, y, sigma) - len(y)) / (len(y) * (len(y) - 1))
    between = _kernel_sum(x, y, sigma) / (len(x) * len(y))
    return scale * (within_x + within_y - 2 * between)


def _kernel_sum(x: Tensor, y: Tensor, sigma: float) -> float:
    """The sum of the kernel over all pairs of rows of `x` (N, D) and `y` (M, D)."""
    total = 0.0
    for rows in torch.split(x, _CHUNK):
        squared = rows.square().sum(-1)[:, None] + y.square().sum(-1) - 2 * rows @ y.T
        total += float(torch.exp(-squared.clamp(min=0) / (2 * sigma**2)).sum())
    return total
