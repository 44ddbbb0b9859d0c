"""A small model, its data and settings, for the tests of the training loop."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unclip.training import (
    Batch,
    Keep,
    LocalCheckpoints,
    TrainingConfig,
    TrainingResult,
    train,
)

CONFIG = TrainingConfig(
    steps=12,
    batch_size=16,
    logical_ranks=4,
    learning_rate=1e-2,
    lr_schedule="cosine",
    warmup_steps=3,
    weight_decay=0.01,
    adam_beta1=0.9,
    adam_beta2=0.99,
    adam_eps=1e-8,
    max_grad_norm=1.0,
    ema_decay=0.9,
    precision="float32",
    log_every_steps=4,
    checkpoint_every_steps=5,
    keep_checkpoints=2,
    sample_every_steps=None,
    seed=7,
)
CPU = torch.device("cpu")


def make_model(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 16), nn.LayerNorm(16), nn.Dropout(dropout), nn.Linear(16, 6))
    return nn.Sequential(*layers)


def denoising_loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    noise = torch.randn(batch["x"].shape, generator=generator)
    loss: Tensor = (model(batch["x"] + 0.1 * noise) - batch["x"]).square().mean()
    return loss


class Microbatches(ABC):
    """Microbatches that follow from (step, logical rank)."""

    @abstractmethod
    def batch(self, step: int, logical_rank: int) -> Batch: ...

    def __call__(
        self, start_step: int, logical_ranks: tuple[int, ...]
    ) -> Iterator[Sequence[Batch]]:
        for step in count(start_step):
            yield [self.batch(step, logical_rank) for logical_rank in logical_ranks]


class Data(Microbatches):
    """Rows of six numbers; a `poisoned` step has a NaN in rank 2."""

    def __init__(self, *, poisoned: tuple[int, ...] = (), scaled: dict[int, float] | None = None):
        self.poisoned = poisoned
        self.scaled = scaled or {}

    def batch(self, step: int, logical_rank: int) -> Batch:
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(100 * step + logical_rank))
        x = x * self.scaled.get(step, 1.0)
        if step in self.poisoned and logical_rank == 2:
            x[1] = math.nan
        return {"x": x, "keys": [f"{step}-{logical_rank}-{row}" for row in range(4)]}


def fit(folder: Path, config: TrainingConfig = CONFIG, **options: Any) -> TrainingResult:
    model = options.pop("model", None) or make_model()
    return train(
        model,
        options.pop("loss", denoising_loss),
        options.pop("data", Data()),
        config,
        checkpoints=options.pop("checkpoints", None)
        or LocalCheckpoints(folder, keep=Keep.of(config)),
        device=CPU,
        **options,
    )


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class StopAfter:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0
