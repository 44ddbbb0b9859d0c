"""Quantisation of coordinates into buckets, and back.

Shape legend: B batch, K dimensions, N samples.
"""

import torch
from torch import Tensor


def uniform_edges(scales: Tensor, *, buckets: int, reach: float) -> Tensor:
    """Edges of equally wide buckets from -reach to reach times the scale of each dimension.

    scales: (K,), standard deviations. Returns (K, buckets + 1), ascending. Values beyond the edges
    fall into the outermost buckets. Between the edges the quantisation error has the variance
    (2 reach / buckets)² / 12 in units of scale²: 5e-6 for 1,024 buckets and reach 4.
    """
    return scales[:, None] * torch.linspace(-reach, reach, buckets + 1, device=scales.device)


def quantise(values: Tensor, edges: Tensor) -> Tensor:
    """The bucket of each value; values: (B, K), edges: (K, buckets + 1) -> (B, K) int64."""
    inner = edges[:, 1:-1].contiguous()  # (K, buckets - 1)
    return torch.searchsorted(inner, values.T.contiguous()).T.contiguous()


def dequantise(codes: Tensor, edges: Tensor) -> Tensor:
    """The centre of each bucket; codes: (B, K) int64, edges: (K, buckets + 1) -> (B, K)."""
    centres = (edges[:, 1:] + edges[:, :-1]) / 2  # (K, buckets)
    return centres.gather(1, codes.T).T


def quantile_edges(samples: Tensor, *, buckets: int) -> Tensor:
    """Inner edges that split the samples (N,) into equally frequent buckets; (buckets - 1,)."""
    ordered = samples.double().sort().values
    shares = torch.arange(1, buckets, dtype=torch.float64, device=samples.device) / buckets
    positions = shares * (len(ordered) - 1)  # fractional indices into `ordered`
    below = positions.long()  # (buckets - 1,)
    above = (below + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], positions - below).float()
