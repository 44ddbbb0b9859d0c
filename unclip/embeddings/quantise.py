"""Quantisation of coordinates into buckets, and back.

Shape legend: B batch, K dimensions, N samples.
"""

import torch
from torch import Tensor


def uniform_edges(scales: Tensor, *, buckets: int, reach: float) -> Tensor:
    """Edges of equal buckets from -reach to reach times the scale of each dimension.

    scales: (K,), standard deviations. Returns (K, buckets + 1), rising. Values beyond them
    fall into the outermost buckets. Within the edges, the error has the variance
    (2 reach / buckets)² / 12 in units of the squared scale: 5e-6 for 1,024 buckets and reach 4.
    """
    return scales[:, None] * torch.linspace(-reach, reach, buckets + 1, device=scales.device)


def quantise(values: Tensor, edges: Tensor) -> Tensor:
    """The bucket of each value; values: (B, K); edges: (K, buckets + 1); (B, K) int64."""
    inner = edges[:, 1:-1].contiguous()  # (K, buckets - 1)
    return torch.searchsorted(inner, values.T.contiguous()).T.contiguous()


def dequantise(codes: Tensor, edges: Tensor) -> Tensor:
    """The middle of each bucket; codes: (B, K) int64; edges: (K, buckets + 1); (B, K)."""
    centres = (edges[:, 1:] + edges[:, :-1]) / 2  # (K, buckets)
    return centres.gather(1, codes.T).T


def quantile_edges(samples: Tensor, *, buckets: int) -> Tensor:
    """Edges that split the samples (N,) into buckets of equal count; (buckets - 1,)."""
    ordered = samples.double().sort().values
    shares = torch.arange(1, buckets, dtype=torch.float64, device=samples.device) / buckets
    places = shares * (len(ordered) - 1)
    below = places.long()  # (buckets - 1,)
    above = (below + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], places - below).float()
