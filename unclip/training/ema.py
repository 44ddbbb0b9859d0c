"""The exponential moving average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unclip.training.sharding import like, local, whole


class Ema:
    """Averages the trainable parameters of `model` in float32; of sharded ones its own part.

    Update t, counted from 0, sets the average to d·average + (1 − d)·weights, with
    d = min(decay, (1 + t) / (10 + t)), so that the initial weights lose their influence early.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._model = model
        self._average = {n: local(p.detach()).clone() for n, p in self._trainable()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the model's current weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [local(p.detach()) for _, p in self._trainable()]
        torch._foreach_lerp_(list(self._average.values()), weights, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with the averaged weights, in evaluation mode; restores its own on exit.

        Weights and average change places, so this takes no more memory than one parameter.
        """
        was_training = self._model.training
        self._swap()
        self._model.eval()
        try:
            yield self._model
        finally:
            self._swap()
            self._model.train(was_training)

    def weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        """A state dict of the model: averaged parameters and buffers, contiguous on the CPU.

        If weights are sharded, all workers must call this. A worker that is not to `keep` them
        returns an empty dict, and holds no more than one whole tensor at a time.
        """
        found: dict[str, Tensor] = {}
        with self.applied() as model:
            for name, tensor in model.state_dict().items():
                gathered = whole(tensor.detach())
                if keep:
                    found[name] = gathered.to(
                        "cpu", copy=True, memory_format=torch.contiguous_format
                    )
        return found

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """The averages by parameter, of sharded ones the part of this worker; not copied."""
        return self._average

    def tensors(self) -> dict[str, Tensor]:
        """The averages by parameter, sharded as the parameters are; not copied."""
        return {n: like(self._average[n], p) for n, p in self._trainable()}

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self._model.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def _swap(self) -> None:
        # Values and not storages: FSDP and DDP keep views of the parameters.
        for name, parameter in self._trainable():
            own, average = local(parameter.detach()), self._average[name]
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)
