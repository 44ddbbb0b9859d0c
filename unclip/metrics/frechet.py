"""The Fréchet distance between two sets of features.

Shape legend: N, M samples, D feature width.
"""

import torch
from torch import Tensor

from unclip.embeddings.pca import Moments


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of normal distributions fitted to `a` (N, D) and `b` (M, D).

    With Inception features this is the FID (Heusel et al. 2017, eq. 6), with others a distance of
    the same kind; 0 for equal sets. Below about D samples it is biased upwards, so compare only
    values from equal numbers of samples.
    """
    return frechet_from_moments(Moments.of(a), Moments.of(b))


def frechet_from_moments(a: Moments, b: Moments) -> float:
    """As `frechet_distance`, from streamed moments: |μa − μb|² + tr(A + B − 2(A½ B A½)½)."""
    mean_a, covariance_a = a.mean_and_covariance()
    mean_b, covariance_b = b.mean_and_covariance()
    root = _square_root(covariance_a)
    # A½ B A½ has the eigenvalues of A B and is symmetric, so eigh keeps them real
    crossed = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0)  # (D,)
    spread = covariance_a.trace() + covariance_b.trace() - 2 * crossed.sqrt().sum()
    return float((mean_a - mean_b).square().sum() + spread)


def _square_root(matrix: Tensor) -> Tensor:
    """The symmetric root of a positive semi-definite matrix (D, D)."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T
    return root
