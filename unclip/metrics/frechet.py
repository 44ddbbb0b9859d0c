"""The Fréchet distance between two sets of features.

Shape legend: N, M samples, D feature width.
"""

import torch
from torch import Tensor

from unclip.embeddings.pca import Moments


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
