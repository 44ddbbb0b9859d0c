"""Precision and recall of generated samples, and their diversity.

Shape legend: N real samples, M generated samples, D feature width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 1024  # rows of the distance matrix at a time


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Fraction of generated samples near real ones, and of real near generated; in [0, 1]."""

    precision: float
    recall: float


def precision_recall(real: Tensor, generated: Tensor, *, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

    real: (N, D), generated: (M, D). Each member of a set covers a ball whose radius is the distance
    to its `neighbours`-th nearest neighbour in the set. Precision is the fraction of generated
    samples in the balls of the real ones; recall is the reverse.
    """
    return PrecisionRecall(
        precision=inside(generated, real, neighbours=neighbours).double().mean().item(),
        recall=inside(real, generated, neighbours=neighbours).double().mean().item(),
    )


def diversity(embeds: Tensor) -> float:
    """Mean of 1 − cosine over all pairs of different rows of (N, D); 0 if all rows are equal."""
    count = len(embeds)
    if count < 2:
        raise ValueError(f"diversity needs at least 2 embeddings, not {count}")
    # The sum of all dot products is the squared norm of the sum; each row's with itself is 1.
    total = F.normalize(embeds.double(), dim=-1).sum(0).square().sum()
    return float(1 - (total - count) / (count * (count - 1)))


def inside(samples: Tensor, members: Tensor, *, neighbours: int = 3) -> Tensor:
    """Whether each sample (M, D) lies in the ball of at least one member (N, D); (M,) bool.

    Its mean is the precision if the members are real, and the recall if the samples are. Raises
    `ValueError` unless both sets have more than `neighbours` rows.
    """
    fewest = min(len(samples), len(members))
    if not 1 <= neighbours < fewest:
        raise ValueError(
            f"neighbours={neighbours} must be in [1, {fewest - 1}], below the size of each set"
        )
    members = members.float()
    radii = torch.cat(
        [
            torch.cdist(rows, members).kthvalue(neighbours + 1, dim=1).values  # + 1: the row itself
            for rows in torch.split(members, _CHUNK)
        ]
    )
    found = [
        (torch.cdist(rows, members) <= radii).any(1)
        for rows in torch.split(samples.float(), _CHUNK)
    ]
    return torch.cat(found)
