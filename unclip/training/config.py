"""Training settings: batch, logical ranks, optimiser, precision, loss spikes."""

import hashlib
import json
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from unclip.config import Config, ConfigError, not_in_key


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """Settings of one training run.

    A logical rank is the unit of data order, randomness and gradient accumulation. The batch of a
    step is the concatenation of `logical_ranks` microbatches of `batch_size / logical_ranks`
    samples, and the workers divide the logical ranks among themselves. Any number of workers up to
    `logical_ranks` takes the same steps.
    """

    tag: ClassVar[str] = "training"

    steps: int  # optimiser steps; 0 leaves the weights unchanged
    batch_size: int  # samples per step, over all logical ranks and workers
    logical_ranks: int  # microbatches per step; at most as many workers
    learning_rate: float  # peak, after the warm-up
    lr_schedule: Literal["constant", "cosine"]  # after the warm-up; cosine decays to 0
    warmup_steps: int  # steps of the linear warm-up from 0
    weight_decay: float  # of AdamW, on matrices only
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    max_grad_norm: float | None  # None: gradients are not clipped
    ema_decay: float  # of the moving average of the weights, which is the result
    precision: Literal["float32", "bfloat16"]  # of the computation; weights stay float32
    log_every_steps: int = not_in_key()
    checkpoint_every_steps: int = not_in_key()
    keep_checkpoints: int = not_in_key()  # number of newest checkpoints to keep
    keep_every_steps: int | None = not_in_key(None)  # also keep those at multiples of this step
    sample_every_steps: int | None = not_in_key()  # None: no samples during training
    validate_every_steps: int | None = not_in_key(default=None)  # None: no validation loss
    seed: int  # of initial weights, data order and noise
    max_loss_ratio: float | None = 10.0  # a loss above this times the running median is a spike
    max_rollbacks: int = not_in_key(default=3)  # to the same checkpoint; one more is an error
    result: Literal["last", "best"] = "last"  # best: weights with the least validation loss

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for name in ("steps", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or above")
        for name in (
            "batch_size",
            "logical_ranks",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        if self.steps:
            most = self.steps
            self._require("warmup_steps", 0 <= self.warmup_steps <= most, f"in [0, {most}]")
        for name in ("sample_every_steps", "validate_every_steps", "keep_every_steps"):
            every = getattr(self, name)
            self._require(name, every is None or every >= 1, "at least 1, or null")
        if self.max_loss_ratio is not None:
            self._require("max_loss_ratio", self.max_loss_ratio > 1, "above 1, or null")
        self._check_saves()
        if self.batch_size % self.logical_ranks:
            near = max(1, self.batch_size // self.logical_ranks) * self.logical_ranks
            raise ConfigError(
                f"training: batch_size={self.batch_size} is not divisible by logical_ranks="
                f"{self.logical_ranks}; try batch_size={near}"
            )

    def _check_saves(self) -> None:
        """Refuse checkpoints that would never be made or judged."""
        saves, keeps = self.checkpoint_every_steps, self.keep_every_steps
        if keeps is not None and keeps % saves:
            raise ConfigError(
                f"training: keep_every_steps={keeps} is not a multiple of checkpoint_every_steps="
                f"{saves}; try keep_every_steps={-(-keeps // saves) * saves}"
            )
        validates = self.validate_every_steps
        if self.result == "best" and (validates is None or saves % validates):
            raise ConfigError(
                f'training: with result="best" each checkpoint needs a validation loss, but '
                f"checkpoint_every_steps={saves} is not a multiple of validate_every_steps="
                f"{validates}; try validate_every_steps={saves}"
            )

    @property
    def microbatch_size(self) -> int:
        """Samples in a logical rank's microbatch."""
        return self.batch_size // self.logical_ranks

    def digest(self) -> str:
        """A hash of the settings that determine the steps; only an equal digest can resume.

        Settings that change no step, and settings at their defaults, are left out. So is `steps`
        with a constant schedule, because a longer run starts with the same steps.
        """
        settings = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.metadata.get("in_key", True) and getattr(self, field.name) != field.default
        }
        if self.lr_schedule == "constant":
            del settings["steps"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"training: {name}={getattr(self, name)} must be {wanted}")
