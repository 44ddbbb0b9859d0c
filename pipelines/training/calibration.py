"""Calibration of an autoregressive prior on the training data, before its first step.

It depends only on artifacts, so it is the same on every worker and after every restart.
"""

# N training rows, E width of the CLIP embeddings

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.artifacts import EmbeddingShards, PcaBasisFile, SelectionShards
from pipelines.data.shard_reader import select_rows
from pipelines.embeddings.components import load_basis
from unclip.embeddings.pca import PcaBasis
from unclip.embeddings.quantise import quantile_edges
from unclip.models import ARPriorConfig

log = logging.getLogger(__name__)

MAX_SHARDS = 256  # evenly spaced over all; their rows determine the bins of the dot product


@dataclass(frozen=True)
class Calibration:
    """The arguments of `ARPrior.calibrate`."""

    basis: PcaBasis
    dot_edges: Tensor  # (dot_bins - 1,)


def calibrate(
    pca: PcaBasisFile, embeddings: EmbeddingShards, selection: SelectionShards, model: ARPriorConfig
) -> Calibration:
    """The basis of the training rows, and the quantiles of their dot products z_i · z_t."""
    products = training_similarities(embeddings, selection)
    log.info("calibrating on the similarities of %d training rows", len(products))
    return Calibration(load_basis(pca), quantile_edges(products, buckets=model.dot_bins))


def training_similarities(embeddings: EmbeddingShards, selection: SelectionShards) -> Tensor:
    """Cosines of image and caption of the training rows, from at most `MAX_SHARDS` shards.

    Returns (N,) float32.
    """
    names = sorted(name for name, rows in selection.training.items() if rows)
    indices = np.linspace(0, len(names) - 1, min(len(names), MAX_SHARDS)).round().astype(int)
    found = []
    for name in (names[index] for index in indices):
        rows = select_rows(selection.url(name), held_out=False)["position"].to_numpy()
        found.append(embeddings.read(name, ["similarity"])["similarity"].to_numpy()[rows])
    return torch.from_numpy(np.concatenate(found).astype(np.float32))
