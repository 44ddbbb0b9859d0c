"""Stub."""

from pipelines.artifacts import EmbeddingShards
from pipelines.core.stage import Context
from pipelines.data.repeats import Repeats


def find_near_duplicates(ctx: Context, embeddings: EmbeddingShards, similarity: float) -> Repeats:
    """Stub."""
    return Repeats.none()
