"""Distances between two sets of features: the Fréchet distance, and the squared MMD (KID, CMMD).

Shape legend: N, M samples, D feature width, R resamples.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.embeddings.pca import Moments

Kernel = Callable[[Tensor, Tensor], Tensor]  # (N, D), (M, D) → (N, M)

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
    return _frechet(*a.mean_and_covariance(), *b.mean_and_covariance())


def frechet_resampled(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """`frechet_distance` of the rows of `a` and `b`, both (N, D), drawn as `weights` (R, N) say."""
    pairs = [(_moments(a, row), _moments(b, row)) for row in weights]
    distances = [_frechet(*of_a, *of_b) for of_a, of_b in pairs]
    return torch.tensor(distances, dtype=torch.float64)


def _moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,) and covariance (D, D) of rows (N, D) that were drawn (N,) times."""
    x, total = x.double(), weights.sum()
    mean = weights @ x / total
    centred = x - mean
    return mean, (centred * weights[:, None]).T @ centred / (total - 1)


def _frechet(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
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


def kid(a: Tensor, b: Tensor, *, unbiased: bool = True, weights: Tensor | None = None) -> Tensor:
    """Kernel Inception distance (Bińkowski et al. 2018, section 4) of `a` (N, D) and `b` (M, D).

    The squared MMD under the kernel (x·y / D + 1)³, over all samples. Like FID, it is named after
    Inception's features but takes any. For weights and the result, see `squared_mmd`.
    """
    return squared_mmd(a, b, cubic_kernel, unbiased=unbiased, weights=weights)


def cmmd(
    a: Tensor,
    b: Tensor,
    *,
    sigma: float = 10.0,
    scale: float = 1000.0,
    unbiased: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """CMMD (Jayasumana et al. 2024, eq. 4) of unit-norm image_embeds `a` (N, D) and `b` (M, D).

    The squared MMD under the kernel exp(−|x − y|² / 2σ²), times `scale`. The paper's code computes
    the biased form. For weights and the result, see `squared_mmd`.
    """

    def gaussian(x: Tensor, y: Tensor) -> Tensor:
        squared = x.square().sum(-1)[:, None] + y.square().sum(-1) - 2 * x @ y.T
        return torch.exp(-squared.clamp(min=0) / (2 * sigma**2))

    return scale * squared_mmd(a, b, gaussian, unbiased=unbiased, weights=weights)


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y / D + 1)³ of all pairs of rows of `x` (N, D) and `y` (M, D)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_mmd(
    a: Tensor,
    b: Tensor,
    kernel: Kernel,
    *,
    unbiased: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """The squared maximum mean discrepancy (Gretton et al. 2012, eq. 3 and 5) of two sets.

    a: (N, D), b: (M, D). The unbiased form is about 0 for samples of one distribution, and can be
    negative. The biased form is never negative, and falls as N and M grow. weights: how often each
    pair of rows (a_i, b_i) was drawn, (R, N), for sets of equal size; by default, each row once.
    With weights, the unbiased form leaves out a_i with b_i too (eq. 4), as these may depend on each
    other. Returns (R,) float64, or a scalar without weights. Raises `ValueError` for fewer than two
    rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"an MMD needs at least 2 rows in each set, not {len(a)} and {len(b)}")
    x, y = a.double(), b.double()  # float64: kernel values of CMMD lie between 0.98 and 1
    if weights is None:
        return _mmd(x, y, kernel, _once(x), _once(y), unbiased=unbiased, paired=False)[0]
    return _mmd(x, y, kernel, weights, weights, unbiased=unbiased, paired=unbiased)


def _mmd(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    of_x: Tensor,
    of_y: Tensor,
    *,
    unbiased: bool,
    paired: bool,
) -> Tensor:
    return (
        _mean_kernel(x, x, kernel, of_x, of_x, leave_out_own=unbiased)
        + _mean_kernel(y, y, kernel, of_y, of_y, leave_out_own=unbiased)
        - 2 * _mean_kernel(x, y, kernel, of_x, of_y, leave_out_own=paired)
    )


def _mean_kernel(
    x: Tensor, y: Tensor, kernel: Kernel, of_x: Tensor, of_y: Tensor, *, leave_out_own: bool
) -> Tensor:
    """The weighted mean of k(x_i, y_j), over all pairs or over those with i ≠ j; (R,)."""
    sums, pairs = _weighted_sums(x, y, kernel, of_x, of_y), of_x.sum(-1) * of_y.sum(-1)
    if leave_out_own:
        parts = zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True)
        own = torch.cat([kernel(rows, others).diagonal() for rows, others in parts])
        sums, pairs = sums - (of_x * of_y) @ own, pairs - (of_x * of_y).sum(-1)
    return sums / pairs


def _weighted_sums(x: Tensor, y: Tensor, kernel: Kernel, of_x: Tensor, of_y: Tensor) -> Tensor:
    """Σ w_i v_j k(x_i, y_j) for weights w (R, N) of `x` and v (R, M) of `y`; (R,)."""
    total = torch.zeros(len(of_x), dtype=torch.float64)
    parts = zip(torch.split(x, _CHUNK), torch.split(of_x, _CHUNK, dim=1), strict=True)
    for rows, row_weights in parts:
        total += (row_weights @ kernel(rows, y) * of_y).sum(-1)
    return total


def _once(x: Tensor) -> Tensor:
    return torch.ones(1, len(x), dtype=torch.float64)
