"""AdamW and its learning-rate schedule."""

import math

import torch
from torch import Tensor, nn

from unclip.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of `step`, from 0: linear warm-up, then constant or half a cosine to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def adamw(model: nn.Module, config: TrainingConfig, *, fused: bool = True) -> torch.optim.AdamW:
    """AdamW. Weight decay applies to matrices, not to 1-d parameters or embedding tables.

    The fused kernel rounds the last few elements of a tensor differently, so that its results
    depend on how a parameter is cut into parts; the other one is slower.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decays: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays[parameter.ndim >= 2 and id(parameter) not in tables].append(parameter)
    groups = [
        {"params": decays[True], "weight_decay": config.weight_decay},
        {"params": decays[False], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=fused,
        foreach=False,
    )
    for parameter in model.parameters():  # at once, so that a checkpoint can be read into it
        if parameter.requires_grad:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device if fused else None),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The state of the optimiser by parameter; not copied."""
    return {
        f"{kind}.{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }
