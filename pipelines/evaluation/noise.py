"""Noise that belongs to a row: a function of (seed, key) alone."""

# B rows, K draws for each row

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class RowNoise(TorchFunctionMode):
    """Within this block every `torch.randn` of B * K rows is drawn row by row.

    A sampler draws the noise of a batch from one generator, so a picture would change with its
    neighbours. Here the rows 0 to K-1 come from the first generator, the next K from the second,
    whatever generator is passed.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.generators = generators

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Pass every function on, but draw noise row by row."""
        if func is torch.randn:
            return self._draw(*args)
        return func(*args, **(kwargs or {}))

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        each, rest = divmod(shape[0], len(self.generators))
        assert rest == 0, f"{shape[0]} draws for {len(self.generators)} rows"
        drawn = [torch.randn((each, *shape[1:]), generator=g) for g in self.generators]
        return torch.cat(drawn)  # (B * K, ...)
