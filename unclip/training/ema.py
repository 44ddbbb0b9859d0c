"""The exponential moving average of a model's weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """Averages the trainable parameters of `model` in float32.

    Update t, counted from 0, sets the average to d·average + (1 − d)·weights, with
    d = min(decay, (1 + t) / (10 + t)), so that the initial weights lose their influence early.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._model = model
        self._average = {n: p.detach().float().clone() for n, p in self._trainable()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the model's current weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average = list(self._average.values())
        weights = [p.detach().float() for _, p in self._trainable()]
        torch._foreach_lerp_(average, weights, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with the averaged weights, in evaluation mode; restores its own on exit."""
        own = {n: p.detach().clone() for n, p in self._trainable()}
        was_training = self._model.training
        self._write(self._average)
        self._model.eval()
        try:
            yield self._model
        finally:
            self._write(own)
            self._model.train(was_training)

    def weights(self) -> dict[str, Tensor]:
        """A state dict of the model, on the CPU: averaged parameters and the current buffers."""
        with self.applied() as model:
            return {n: t.detach().cpu().clone() for n, t in model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint; the tensors are not copied."""
        return {"updates": self.updates, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.updates = state["updates"]
        for name, average in self._average.items():
            average.copy_(state["average"][name])

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self._model.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._trainable():
            parameter.copy_(values[name])
