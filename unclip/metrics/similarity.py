"""Similarity of paired embeddings.

Shape legend: N pairs, D embedding width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 2048  # queries at a time


@dataclass(frozen=True, kw_only=True)
class CosineStatistics:
    """Cosines of N pairs, each in [-1, 1]."""

    mean: float
    std: float
    percentile_5: float
    median: float
    percentile_95: float


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """The fraction of queries whose own target is in the top k, and that fraction by chance."""

    recall: float
    chance: float


def clip_score(image_embeds: Tensor, text_embeds: Tensor, *, weight: float = 100.0) -> float:
    """CLIPScore (Hessel et al. 2021): the mean of `clip_scores`."""
    return clip_scores(image_embeds, text_embeds, weight=weight).mean().item()


def clip_scores(image_embeds: Tensor, text_embeds: Tensor, *, weight: float = 100.0) -> Tensor:
    """Weight · max(cosine, 0) of each pair of rows of (N, D) and (N, D); (N,).

    Hessel et al. use the weight 2.5; most other work uses 100.
    """
    return weight * cosines(image_embeds, text_embeds).clamp(min=0)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine (N,) of each pair of rows of (N, D) and (N, D)."""
    if a.shape != b.shape:
        raise ValueError(
            f"rows of {tuple(a.shape)} and {tuple(b.shape)} do not pair up; give equal shapes"
        )
    return F.cosine_similarity(a.float(), b.float(), dim=-1)


def cosine_statistics(a: Tensor, b: Tensor) -> CosineStatistics:
    """Statistics of the cosines of paired rows of (N, D) and (N, D)."""
    values = cosines(a, b)
    levels = torch.tensor([0.05, 0.5, 0.95], device=values.device)
    low, median, high = torch.quantile(values, levels).tolist()
    return CosineStatistics(
        mean=values.mean().item(),
        std=values.std(correction=0).item(),
        percentile_5=low,
        median=median,
        percentile_95=high,
    )


def retrieval_at_k(queries: Tensor, targets: Tensor, *, k: int) -> Retrieval:
    """Recall at k over all queries, and by chance; see `found_at_k`."""
    found = found_at_k(queries, targets, k=k)
    return Retrieval(recall=found.double().mean().item(), chance=k / len(queries))


def found_at_k(queries: Tensor, targets: Tensor, *, k: int) -> Tensor:
    """Whether a query's own target is among the k targets of highest cosine; (N,) bool.

    queries, targets: (N, D), paired by row. Ties count against the query, so embeddings that have
    collapsed to one point retrieve nothing.
    """
    if queries.shape != targets.shape:
        raise ValueError(
            f"queries {tuple(queries.shape)} and targets {tuple(targets.shape)} do not pair up"
        )
    if not 1 <= k <= len(queries):
        raise ValueError(f"k={k} must be in [1, {len(queries)}], the number of targets")
    own = cosines(queries, targets)  # (N,)
    unit_targets = F.normalize(targets.float(), dim=-1)
    found = []
    for start in range(0, len(queries), _CHUNK):
        rows = slice(start, start + _CHUNK)
        similarity = F.normalize(queries[rows].float(), dim=-1) @ unit_targets.T
        at_least = similarity >= own[rows, None] - 1e-6  # includes its own target
        found.append(at_least.sum(-1) <= k)
    return torch.cat(found)
