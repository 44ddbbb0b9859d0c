"""The loss on held-out rows, at fixed timesteps and with fixed noise.

A step of the training draws timesteps and noise, so its loss varies with them. Here they are the
same every time: two values differ only because the weights do.
"""

# B batch

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from unclip.training.by_timestep import middles, train_timesteps
from unclip.training.config import TrainingConfig
from unclip.training.logical_ranks import Batch, Loss, seed_logical_rank

VALIDATION_LOSS = "validation_loss"


@torch.no_grad()
def validation_losses(
    model: nn.Module, loss: Loss[Any], batches: Sequence[Batch], config: TrainingConfig
) -> dict[str, float]:
    """`validation_loss`, and for a diffusion model `validation_loss/t<timestep>`, whose mean it is.

    model: in evaluation mode, on one device. batches: held-out rows on that device; the losses are
    averaged over their rows.
    """
    last = train_timesteps(model)
    if last is None:
        return {VALIDATION_LOSS: _mean_loss(model, loss, batches, config)}
    losses = {
        f"{VALIDATION_LOSS}/t{step:04d}": _mean_loss(
            model, loss, [_at(b, step) for b in batches], config
        )
        for step in middles(last)
    }
    return {VALIDATION_LOSS: sum(losses.values()) / len(losses), **losses}


def _mean_loss(
    model: nn.Module, loss: Loss[Any], batches: Sequence[Batch], config: TrainingConfig
) -> float:
    device = next(model.parameters()).device
    total = 0.0
    for number, batch in enumerate(batches):
        generator = seed_logical_rank(config.seed, 0, number, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            total += _rows(batch) * float(loss(model, batch, generator))
    return total / sum(map(_rows, batches))


def _at(batch: Batch, timestep: int) -> Batch:
    """The batch with one timestep for all rows."""
    return {**batch, "timesteps": torch.full((_rows(batch),), timestep)}


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))
