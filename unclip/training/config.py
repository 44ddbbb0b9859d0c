"""How a model is trained: batch, logical ranks, optimiser, precision, health."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from unclip.config import Config, ConfigError, not_in_key

# Settings that change what is written or said, but not one step that is taken.
_WITHOUT_EFFECT = (
    "log_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "sample_every_steps",
    "max_rollbacks",
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """Settings of one training run.

    A logical rank is the unit of data order, of randomness and of gradient accumulation: the batch
    of a step is the concatenation of `logical_ranks` microbatches of `batch_size / logical ranks`
    samples, and workers share the logical ranks out among them. Any number of workers that divides
    `logical_ranks` takes the same steps.
    """

    tag: ClassVar[str] = "training"

    steps: int  # optimiser steps; 0 leaves the weights as they are
    batch_size: int  # of a step, over all logical ranks and workers
    logical_ranks: int  # parts of a batch; the most workers that can share it
    learning_rate: float  # after the warm-up
    lr_schedule: Literal["constant", "cosine"]  # after the warm-up; cosine falls to 0
    warmup_steps: int  # of a linear rise from 0
    weight_decay: float  # of AdamW, on matrices only
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    max_grad_norm: float | None  # None: gradients are not clipped
    ema_decay: float  # of the averaged weights, which are what is kept
    precision: Literal["float32", "bfloat16"]  # of the arithmetic; weights stay float32
    log_every_steps: int = not_in_key()
    checkpoint_every_steps: int = not_in_key()
    keep_checkpoints: int = not_in_key()  # the newest ones
    sample_every_steps: int | None = not_in_key()  # None: no samples on the way
    seed: int  # of weights, order and noise
    max_loss_ratio: float | None = 10.0  # a loss above this times the running median is a spike
    max_rollbacks: int = not_in_key(3)  # to the same checkpoint, before training is given up

    def __post_init__(self) -> None:
        self._need("steps", self.steps >= 0, "0 or above")
        for name in ("batch_size", "logical_ranks", "log_every_steps", "checkpoint_every_steps"):
            self._need(name, getattr(self, name) >= 1, "at least 1")
        self._need("keep_checkpoints", self.keep_checkpoints >= 1, "at least 1")
        self._need("learning_rate", self.learning_rate > 0, "above 0")
        self._need("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        self._need("seed", self.seed >= 0, "0 or above")
        if self.steps:
            most = self.steps
            self._need("warmup_steps", 0 <= self.warmup_steps <= most, f"in [0, {most}]")
        if self.sample_every_steps is not None:
            self._need("sample_every_steps", self.sample_every_steps >= 1, "at least 1, or null")
        if self.max_loss_ratio is not None:
            self._need("max_loss_ratio", self.max_loss_ratio > 1, "above 1, or null")
        if self.batch_size % self.logical_ranks:
            near = max(1, self.batch_size // self.logical_ranks) * self.logical_ranks
            raise ConfigError(
                f"training: batch_size={self.batch_size} is not divisible by logical_ranks="
                f"{self.logical_ranks}; try batch_size={near}"
            )

    @property
    def microbatch_size(self) -> int:
        """Samples in the microbatch of a logical rank."""
        return self.batch_size // self.logical_ranks

    def digest(self) -> str:
        """Names the steps that this configuration takes: a checkpoint resumes only its own."""
        fields = {k: v for k, v in asdict(self).items() if k not in _WITHOUT_EFFECT}
        if self.lr_schedule == "constant":
            del fields["steps"]  # a longer run starts with the same steps
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:20]

    def _need(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"training: {name}={getattr(self, name)} must be {wanted}")
