"""Losses by timestep, in as many equal parts as the validation loss has timesteps.

The loss of a diffusion model depends far more on the timestep than on the model: the mean can fall
while the model gets worse at one level of noise.
"""

# B rows of a report, K parts

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from unclip.objectives.row_losses import Report

PARTS = 8


def middles(last: int) -> list[int]:
    """The timestep in the middle of each part of `last` timesteps."""
    return [(2 * i + 1) * last // (2 * PARTS) for i in range(PARTS)]


def train_timesteps(model: nn.Module) -> int | None:
    """The number of timesteps of a diffusion model; None for any other."""
    steps: int | None = getattr(getattr(model, "config", None), "train_timesteps", None)
    return steps


def sums_by_part(reports: Sequence[Report], last: int | None, *, device: torch.device) -> Tensor:
    """The number of rows and the sum of their losses in each part; (2, K) float32.

    last: the number of timesteps; without it, all are zeros.
    """
    sums = torch.zeros(2, PARTS, device=device)
    if last is None:
        return sums
    parts = torch.arange(PARTS, device=device)[:, None]  # (K, 1)
    for timesteps, losses in reports:
        inside = timesteps.to(device) * PARTS // last == parts  # (K, B)
        # Not a scatter, whose order of summation varies on a GPU.
        of_part = torch.where(inside, losses.float(), 0.0)
        sums += torch.stack([inside.sum(1), of_part.sum(1)])
    return sums


def curves(sums: np.ndarray, last: int | None) -> dict[str, float]:
    """`loss/t<timestep>` for each part that has rows; sums: (2, K), as of `sums_by_part`."""
    if last is None:
        return {}
    parts = zip(middles(last), *sums.tolist(), strict=True)
    return {f"loss/t{middle:04d}": total / rows for middle, rows, total in parts if rows}
