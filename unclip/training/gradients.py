"""Gradients of a step: computed for each logical rank, and averaged over all of them.

A step has rounds, and in each round every worker computes one logical rank. In the last round some
workers may have none left. If weights are shared, such a worker computes its first one again,
because the others gather parameters from it, and adds nothing.
"""

# S workers that share the weights, n elements of a worker's part

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from torch.nn.parallel import DistributedDataParallel

from unclip.training.parallel import Parallel, Workers
from unclip.training.sharding import is_sharded, local, replicas
from unclip.training.tree_sum import TreeSum

Compute = Callable[[], Tensor]  # runs the forward pass of one microbatch; returns its loss


def clear_gradients(objective: nn.Module) -> None:
    """Forget the gradients of the last step. DDP's stay where they are, in its buckets, as zeros:
    the next ones would else be kept beside the buckets, until the last microbatch.
    """
    objective.zero_grad(set_to_none=not isinstance(objective, DistributedDataParallel))


class GradientSum(Protocol):
    """Leaves the mean gradient over all logical ranks in the parameters of this worker."""

    def __call__(self, computes: Sequence[Compute]) -> None:
        """Run forward and backward for each microbatch of this worker; gradients must be clear."""
        ...


def gradient_sum(
    objective: nn.Module, parallel: Parallel, workers: Workers, logical_ranks: int
) -> GradientSum:
    """The way to sum gradients that fits how the objective was wrapped."""
    rounds = Rounds(workers.world_size, logical_ranks)
    if parallel.summation == "fixed":
        if is_sharded(objective):
            return FixedSharded(objective, rounds)
        return FixedReplicated(objective, rounds)
    return FastSharded(rounds) if is_sharded(objective) else FastReplicated(objective, rounds)


@dataclass(frozen=True)
class Rounds:
    """The rounds of a step."""

    world_size: int
    logical_ranks: int

    def __len__(self) -> int:
        return -(-self.logical_ranks // self.world_size)

    def workers(self, number: int) -> int:
        """How many workers, from rank 0 on, have a logical rank in a round."""
        return min(self.world_size, self.logical_ranks - number * self.world_size)

    @property
    def mean_share(self) -> float:
        """Logical ranks of a worker, on average."""
        return self.logical_ranks / self.world_size


@dataclass(frozen=True)
class FastReplicated:
    """Each worker adds up its own gradients, and DDP averages them over workers at the last."""

    objective: nn.Module
    rounds: Rounds

    def __call__(self, computes: Sequence[Compute]) -> None:
        ddp = self.objective if isinstance(self.objective, DistributedDataParallel) else None
        for number, compute in enumerate(computes, 1):
            with ddp.no_sync() if ddp and number < len(computes) else nullcontext():
                _backward(compute() / self.rounds.mean_share)


@dataclass(frozen=True)
class FastSharded:
    """FSDP averages the gradients over workers in each round, so none is ever whole."""

    rounds: Rounds

    def __call__(self, computes: Sequence[Compute]) -> None:
        for number in range(len(self.rounds)):
            idle = number >= len(computes)
            share = 0.0 if idle else 1 / self.rounds.mean_share
            _backward(computes[0 if idle else number]() * share)


@dataclass(frozen=True)
class FixedReplicated:
    """All workers gather the gradients of each round, and add them in a tree over logical ranks."""

    objective: nn.Module
    rounds: Rounds

    def __call__(self, computes: Sequence[Compute]) -> None:
        sums: dict[nn.Parameter, TreeSum] = {}
        for number in range(len(self.rounds)):
            if number < len(computes):
                _backward(computes[number]())
            for parameter in self.objective.parameters():
                if parameter.grad is not None or parameter in sums:
                    tree = sums.setdefault(parameter, TreeSum())
                    for term in self._gather(parameter)[: self.rounds.workers(number)]:
                        tree.add(term)
                    parameter.grad = None
        for parameter, tree in sums.items():
            parameter.grad = tree.take().div_(self.rounds.logical_ranks)

    def _gather(self, parameter: nn.Parameter) -> list[Tensor]:
        """The parameter's gradients on all workers; a worker without one gives zeros."""
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if self.rounds.world_size == 1:
            return [own]
        gathered = [torch.empty_like(own) for _ in range(self.rounds.world_size)]
        dist.all_gather(gathered, own)
        return gathered


class FixedSharded:
    """FSDP hands out the gradients of each round; the owner of a part adds them in the tree."""

    def __init__(self, objective: nn.Module, rounds: Rounds) -> None:
        self.objective = objective
        self.rounds = rounds
        self.round = Round()
        for module in objective.modules():
            if isinstance(module, FSDPModule):
                module.set_custom_reduce_scatter(
                    TreeReduceScatter(self.round, replicas(next(objective.parameters())))
                )
                module.set_gradient_divide_factor(1.0)

    def __call__(self, computes: Sequence[Compute]) -> None:
        for number in range(len(self.rounds)):
            self.objective.zero_grad()  # all but the last round leave zeros
            self.round.workers = self.rounds.workers(number)
            self.round.is_last = number == len(self.rounds) - 1
            _backward(computes[number if number < len(computes) else 0]())
        for parameter in self.objective.parameters():
            if parameter.grad is not None:
                local(parameter.grad).div_(self.rounds.logical_ranks)


@dataclass
class Round:
    """The round that is being computed."""

    workers: int = 0  # with a logical rank
    is_last: bool = False


@dataclass
class TreeReduceScatter(ReduceScatter):
    """Replaces the reduce-scatter of one FSDP module by an exchange and a `TreeSum`.

    replicas: the workers with the same part in other groups. The first of them has the sum, and the
    others zeros, because FSDP adds over them afterwards.
    """

    round: Round
    replicas: dist.ProcessGroup | None
    sum: TreeSum = field(default_factory=TreeSum)

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """A buffer for the input or the output."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,  # noqa: ARG002
        async_op: bool = False,  # noqa: ARG002
    ) -> None:
        """input_tensor: (S n,), this worker's gradient; output_tensor: (n,), the part it owns."""
        received = torch.empty_like(input_tensor)  # this worker's part from each of the group
        dist.all_to_all_single(received, input_tensor, group=group)
        for term in self._of_all_groups(received, group)[: self.round.workers]:
            self.sum.add(term.clone())
        output_tensor.zero_()
        if self.round.is_last:
            total = self.sum.take()
            if self.replicas is None or dist.get_rank(self.replicas) == 0:
                output_tensor.copy_(total)

    def _of_all_groups(self, received: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
        """Terms (n,) in the order of the workers' ranks."""
        groups = [received]
        if self.replicas is not None:
            groups = [torch.empty_like(received) for _ in range(dist.get_world_size(self.replicas))]
            dist.all_gather(groups, received, group=self.replicas)
        return [term for of_group in groups for term in of_group.chunk(dist.get_world_size(group))]


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
