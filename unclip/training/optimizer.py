"""AdamW and its learning-rate schedule."""

import math

import torch
from torch import nn

from unclip.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of `step`, from 0: linear warm-up, then constant or half a cosine to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Fused AdamW. Weight decay applies to matrices, not to 1-d parameters or embedding tables."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decays: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays[parameter.ndim >= 2 and id(parameter) not in tables].append(parameter)
    groups = [
        {"params": decays[True], "weight_decay": config.weight_decay},
        {"params": decays[False], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )
