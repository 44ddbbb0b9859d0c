"""Metrics of generated images and embeddings, as functions of float tensors."""

from unclip.metrics.distances import (
    cmmd,
    frechet_distance,
    frechet_from_moments,
    frechet_resampled,
    kid,
    squared_mmd,
)
from unclip.metrics.intervals import (
    Estimate,
    Interval,
    bootstrap_weights,
    constant,
    interval,
    mean_of,
)
from unclip.metrics.manifold import PrecisionRecall, diversity, inside, precision_recall
from unclip.metrics.similarity import (
    CosineStatistics,
    Retrieval,
    clip_score,
    clip_scores,
    cosine_statistics,
    cosines,
    found_at_k,
    retrieval_at_k,
)

__all__ = [
    "CosineStatistics",
    "Estimate",
    "Interval",
    "PrecisionRecall",
    "Retrieval",
    "bootstrap_weights",
    "clip_score",
    "clip_scores",
    "cmmd",
    "constant",
    "cosine_statistics",
    "cosines",
    "diversity",
    "found_at_k",
    "frechet_distance",
    "frechet_from_moments",
    "frechet_resampled",
    "inside",
    "interval",
    "kid",
    "mean_of",
    "precision_recall",
    "retrieval_at_k",
    "squared_mmd",
]
