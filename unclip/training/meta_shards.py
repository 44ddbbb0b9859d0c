"""What FSDP2 holds whole during a step, as stand-ins without data.

FSDP2 gathers a unit's parameters, which are a block's or all those outside of blocks, into one flat
buffer, and copies them out into the parameters. It flattens whole gradients in the same way for
the reduce-scatter. This follows torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py of torch
2.15. The copies that gloo makes for the time of a collective are left out.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from torch import nn

OUTSIDE = 0  # the unit of the parameters outside of blocks: FSDP2's root


@dataclass(frozen=True, eq=False)
class Whole:
    """Stands for gathered parameters, or whole gradients, in float32."""

    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return 4 * self.numel


class ShardedUnits:
    """Follows a forward and backward pass with FSDP2's hooks, and holds what FSDP2 would.

    on_gather: called with each new `Whole`, which lives for as long as FSDP2 holds its bytes.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[nn.Module], on_gather: Callable[[Whole], None]
    ) -> None:
        self._on_gather = on_gather
        self._units = {p: n for n, block in enumerate(blocks, 1) for p in block.parameters()}
        self._sizes: dict[int, int] = defaultdict(int)
        self._order: list[int] = []  # of the units' forward passes
        self._flat: Whole | None = None  # the last all-gather's output
        self._whole: dict[int, Whole] = {}
        self._gradients: dict[int, list[Whole]] = defaultdict(list)
        self._reduced: Whole | None = None  # the last reduce-scatter's input
        for parameter in model.parameters():
            self._sizes[self._units.setdefault(parameter, OUTSIDE)] += parameter.numel()
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook
                hook(self._hold_gradient)  # type: ignore[no-untyped-call]
        for unit, block in enumerate(blocks, 1):
            for register, method in (
                (block.register_forward_pre_hook, self._forward_begins),
                (block.register_forward_hook, self._forward_ends),
                (block.register_full_backward_pre_hook, self._backward_begins),
                (block.register_full_backward_hook, self._backward_ends),
            ):
                register(partial(_call, method, unit))

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around the forward pass of the model."""
        self._forward_begins(OUTSIDE)
        yield
        self._forward_ends(OUTSIDE)

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Around its backward pass."""
        self._backward_begins(OUTSIDE)
        yield
        self._backward_ends(OUTSIDE)

    def _forward_begins(self, unit: int) -> None:
        """Gather and copy out. The flat buffer stays until the next one exists, which lets a GPU
        copy out while it gathers the next unit.
        """
        self._flat = self._gather(self._sizes[unit])
        self._whole[unit] = self._gather(self._sizes[unit])

    def _forward_ends(self, unit: int) -> None:
        """Free the parameters; those outside of blocks too, because `shard` asks for it."""
        del self._whole[unit]
        self._order.append(unit)
        if unit == OUTSIDE:
            self._flat = None

    def _backward_begins(self, unit: int) -> None:
        """Copy out what was gathered ahead, and start to gather the unit that comes next."""
        if self._flat is None:
            self._flat = self._gather(self._sizes[unit])
        self._whole[unit] = self._gather(self._sizes[unit])
        self._flat = None
        if number := self._order.index(unit):
            self._flat = self._gather(self._sizes[self._order[number - 1]])

    def _backward_ends(self, unit: int) -> None:
        """Free the parameters, and flatten the gradients. The flat copy stays until the next one.

        The reduce-scatter's output is smaller than the gradients that are freed before it.
        """
        self._whole.pop(unit, None)
        self._reduced = None
        self._reduced = self._gather(sum(g.numel for g in self._gradients[unit]))
        self._gradients[unit].clear()

    def _hold_gradient(self, parameter: nn.Parameter) -> None:
        """A gradient stays whole until the backward pass of its unit ends."""
        parameter.grad = None
        self._gradients[self._units[parameter]].append(self._gather(parameter.numel()))

    def _gather(self, numel: int) -> Whole:
        whole = Whole(numel)
        self._on_gather(whole)
        return whole


def _call(method: Callable[[int], None], unit: int, *_: object) -> None:
    method(unit)
