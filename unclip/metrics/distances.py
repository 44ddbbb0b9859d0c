"""Distances between two sets of features: the Fréchet distance and the squared MMD (CMMD).

Shape legend: N, M samples, D feature width.
"""

import torch
from torch import Tensor

from unclip.embeddings.pca import Moments

_CHUNK = 2048  # rows of the kernel matrix at a time


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance between normal distributions fitted to `a` (N, D) and `b` (M, D).

    With Inception features this is the FID (Heusel et al. 2017, eq. 6). It is 0 for equal sets. The
    estimate is biased upwards, strongly so with fewer than about D samples: compare only values
    from equal numbers of samples.
    """
    return frechet_from_moments(Moments.of(a), Moments.of(b))


def frechet_from_moments(a: Moments, b: Moments) -> float:
    """As `frechet_distance`, from streamed moments: |μa − μb|² + tr(A + B − 2(A½ B A½)½)."""
    mean_a, covariance_a = a.mean_and_covariance()
    mean_b, covariance_b = b.mean_and_covariance()
    root = _square_root(covariance_a)
    # A½ B A½ is symmetric and has the eigenvalues of A B, so eigvalsh gives them as reals.
    crossed = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0)  # (D,)
    spread = covariance_a.trace() + covariance_b.trace() - 2 * crossed.sqrt().sum()
    return float((mean_a - mean_b).square().sum() + spread)


def _square_root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix (D, D)."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T
    return root


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
