"""How the workers of a training share its computation, which changes nothing that is made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unclip.config import Config, ConfigError, not_in_key
from unclip.training.compiled import compile_blocks
from unclip.training.fixed_order import join_inputs_of_blocks
from unclip.training.recompute import recompute_blocks
from unclip.training.sharding import shard

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Parallel(Config):
    """How a training is computed: sharing of the weights, activations, order of summation.

    Weights differ between these settings by rounding only. With `summation: fixed`, weights are
    equal bit for bit, whatever the number of workers and however the weights are shared.

    `checkpoint_activations` computes blocks again in the backward pass, to save memory: all of each
    block, or, if "selective", all but matrix products, convolutions and attention.
    `compile_blocks` compiles each block with torch.compile, for training but not for sampling.
    """

    tag: ClassVar[str] = "parallel"

    shard_workers: int = not_in_key(1)  # that share one copy of weights, optimiser and average
    checkpoint_activations: bool | Literal["selective"] = not_in_key(False)  # recompute blocks
    summation: Literal["fast", "fixed"] = not_in_key("fast")  # fixed: the same bits everywhere
    compile_blocks: bool = not_in_key(False)  # for GPUs; takes minutes at each start

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if self.shard_workers < 1:
            raise ConfigError(
                f"training: shard_workers={self.shard_workers} must be at least 1, which gives "
                "each worker all weights"
            )

    def shares_weights(self, world_size: int) -> bool:
        """Whether each of so many workers holds only a part of the weights."""
        return self.group_size(world_size) > 1

    def group_size(self, world_size: int) -> int:
        """Workers that share one copy of the weights: the smallest divisor of `world_size` that is
        at least `shard_workers`, or all workers, if there are fewer.
        """
        wanted = min(self.shard_workers, world_size)
        return next(n for n in range(wanted, world_size + 1) if world_size % n == 0)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Rank and device of this worker; several workers share torch's default process group."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_leader(self) -> bool:
        """Whether this worker is rank 0."""
        return self.rank == 0


class Objective(nn.Module):
    """Applies a function to the model, so that DDP and FSDP wrap whichever methods it calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[nn.Module], T]) -> T:
        """The result of `compute(model)`."""
        return compute(self.model)


def wrap(model: nn.Module, parallel: Parallel, workers: Workers) -> nn.Module:
    """An `Objective` of the model on the worker's device: alone, replicated (DDP) or sharded.

    All workers must build the same model. If weights are shared, its parameters become the shards
    of this worker, and only rank 0 needs their values: the model of another worker may be on the
    meta device. Raises `ConfigError` if a trained parameter is not float32.
    """
    _check_float32(model)
    if parallel.checkpoint_activations:
        recompute_blocks(model, selective=parallel.checkpoint_activations == "selective")
    if parallel.summation == "fixed":
        join_inputs_of_blocks(model)
    if parallel.compile_blocks:
        compile_blocks(model)
    objective = Objective(model)
    if parallel.shares_weights(workers.world_size):
        size = parallel.group_size(workers.world_size)
        shard(objective, workers.device, world_size=workers.world_size, group_size=size)
        return objective
    if parallel.summation == "fixed":  # which also fixes the layout that sharding requires
        model.to(memory_format=torch.contiguous_format)
    objective.to(workers.device)
    if workers.world_size == 1 or parallel.summation == "fixed":
        return objective  # `unclip.training.gradients` sums
    # DDP moves gradients that exist into its buckets. It would keep those of the first step beside
    # them, until the last microbatch.
    for parameter in objective.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    # Buffers stay as they are: none is trained.
    return DistributedDataParallel(
        objective, forward_sync_buffers=False, gradient_as_bucket_view=True
    )


def _check_float32(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise ConfigError(
                f"training: {name} is {parameter.dtype}, but weights are trained in float32; "
                "convert the model with model.float(), and set the precision of the computation "
                "with training.precision"
            )
