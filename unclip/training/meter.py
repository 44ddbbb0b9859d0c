"""Loss, gradient norm and speed, averaged over the steps since the last log entry."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from unclip.training.by_timestep import PARTS, curves


class Meter:
    """Accumulates values over steps and makes log entries from them.

    The sums of losses and gradient norms are part of a checkpoint, so a resumed run makes the same
    entries as an uninterrupted one. Times are not: they cover only the steps of this process.
    """

    def __init__(self, *, batch_size: int, timesteps: int | None) -> None:
        self.latest: dict[str, float] = {}  # the last log entry; empty before the first
        self._batch_size = batch_size
        self._timesteps = timesteps  # of a diffusion model
        self._clear()

    def start_clock(self) -> None:
        """Start measuring time."""
        self._timed_steps, self._waited_s, self._start_s = 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent in the block as waiting for data."""
        start_s = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start_s

    def add(
        self,
        *,
        loss: float,
        grad_norm: float,
        learning_rate: float,
        by_timestep: np.ndarray,
    ) -> None:
        """Add one step; by_timestep: rows and the sum of their losses in each part, (2, K)."""
        self._steps += 1
        self._timed_steps += 1
        self._loss_sum += loss
        self._grad_norm_sum += grad_norm
        self._learning_rate = learning_rate
        self._by_timestep += by_timestep

    def make_entry(self) -> dict[str, float] | None:
        """The log entry for the steps since the last entry; None if no step was taken."""
        if not self._steps:
            return None
        elapsed_s = max(time.perf_counter() - self._start_s, 1e-9)
        self.latest = {
            "loss": self.mean_loss,
            "grad_norm": self._grad_norm_sum / self._steps,
            "learning_rate": self._learning_rate,
            "samples_per_s": self._timed_steps * self._batch_size / elapsed_s,
            "step_time_s": elapsed_s / max(1, self._timed_steps),
            "data_wait_fraction": self._waited_s / elapsed_s,
            **curves(self._by_timestep, self._timesteps),
        }
        self._clear()
        return self.latest

    @property
    def mean_loss(self) -> float:
        """Mean loss of the steps since the last entry; NaN if no step was taken."""
        return self._loss_sum / self._steps if self._steps else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """The sums and the last entry, for a checkpoint."""
        return {
            "steps": self._steps,
            "loss_sum": self._loss_sum,
            "grad_norm_sum": self._grad_norm_sum,
            "learning_rate": self._learning_rate,
            "by_timestep": self._by_timestep.tolist(),
            "latest": dict(self.latest),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`, and start the clock."""
        self._steps = state["steps"]
        self._loss_sum = state["loss_sum"]
        self._grad_norm_sum = state["grad_norm_sum"]
        self._learning_rate = state["learning_rate"]
        none = np.zeros((2, PARTS))  # in checkpoints of earlier versions
        self._by_timestep = np.array(state.get("by_timestep", none))
        self.latest = dict(state["latest"])
        self.start_clock()

    def _clear(self) -> None:
        self._steps, self._loss_sum, self._grad_norm_sum, self._learning_rate = 0, 0.0, 0.0, 0.0
        self._by_timestep = np.zeros((2, PARTS))
        self.start_clock()
