"""Confidence intervals by the bootstrap (Efron 1979): the same estimate on rows drawn again.

An estimate is a function of weights, which say how often each row was drawn: ones give its plain
value. Estimates over the same rows take the same weights, so their differences have intervals too.

Shape legend: N rows, R resamples.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Estimate = Callable[[Tensor], Tensor]  # weights (R, N) float64 → values (R,) float64

RESAMPLES = 500
LEVEL = 0.95


class Interval(NamedTuple):
    """The bounds of a confidence interval."""

    low: float
    high: float


def bootstrap_weights(
    count: int, *, generator: torch.Generator, resamples: int = RESAMPLES
) -> Tensor:
    """(1 + R, N) float64: a row of ones, and R resamples of `count` rows with replacement."""
    drawn = torch.randint(count, (resamples, count), generator=generator)
    weights = torch.zeros(resamples, count, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    return torch.cat([torch.ones(1, count, dtype=torch.float64), weights])


def interval(values: Tensor, *, level: float = LEVEL) -> Interval:
    """The interval of an estimate: its plain value, then those on resamples, (1 + R,).

    Percentiles of the resamples, shifted so that their mean is the plain value. Without the shift,
    the interval of a biased estimate such as the Fréchet distance may lie beside its value, because
    rows that are drawn twice raise the bias.
    """
    plain, resampled = values[0], values[1:]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype)
    bounds = torch.quantile(resampled, tails) + plain - resampled.mean()
    if values.min() >= 0 and values.max() <= 1:  # a share: the shift must not leave its range
        bounds = bounds.clamp(0, 1)
    low, high = bounds.tolist()
    return Interval(low, high)


def mean_of(values: Tensor | np.ndarray) -> Estimate:
    """The mean of one value per row, (N,)."""
    column = torch.as_tensor(values).to(torch.float64).cpu()
    return lambda weights: weights @ column / weights.sum(-1)


def constant(value: float) -> Estimate:
    """A value that does not depend on the rows, such as chance."""
    return lambda weights: torch.full((len(weights),), value, dtype=torch.float64)
