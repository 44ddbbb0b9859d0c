"""Metrics of generated images and embeddings, as functions of float tensors."""

from unclip.metrics.distances import cmmd, frechet_distance, frechet_from_moments
from unclip.metrics.manifold import PrecisionRecall, diversity, precision_recall
from unclip.metrics.similarity import (
    CosineStatistics,
    Retrieval,
    clip_score,
    cosine_statistics,
    cosines,
    retrieval_at_k,
)

__all__ = [
    "CosineStatistics",
    "PrecisionRecall",
    "Retrieval",
    "clip_score",
    "cmmd",
    "cosine_statistics",
    "cosines",
    "diversity",
    "frechet_distance",
    "frechet_from_moments",
    "precision_recall",
    "retrieval_at_k",
]
