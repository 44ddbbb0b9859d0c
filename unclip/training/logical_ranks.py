"""Logical ranks: which worker computes which microbatch, and each microbatch's random numbers."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from unclip.config import ConfigError
from unclip.objectives.batch import Batch as Batch

# batches(start_step, logical_ranks) yields, for start_step, start_step + 1, ... without end, one
# microbatch for each of `logical_ranks`. A microbatch depends only on its step and logical rank.
Batches = Callable[[int, tuple[int, ...]], Iterator[Sequence[Batch]]]

Model = TypeVar("Model", bound=nn.Module)
# loss(model, batch on the device, generator on the device) -> mean over the batch, a scalar
Loss = Callable[[Model, Batch, torch.Generator], Tensor]


def logical_ranks_of(rank: int, *, world_size: int, logical_ranks: int) -> tuple[int, ...]:
    """The logical ranks of worker `rank`, at least one; some workers may have one more than others.

    In round n a worker computes its n-th logical rank, so a round covers consecutive logical ranks.
    Raises `ConfigError` if there are more workers than logical ranks.
    """
    if world_size > logical_ranks:
        raise ConfigError(
            f"training: {world_size} workers cannot share logical_ranks={logical_ranks}; use at "
            f"most {logical_ranks} workers, or start a new run with more logical ranks"
        )
    return tuple(range(rank, logical_ranks, world_size))


def seed_logical_rank(
    seed: int, step: int, logical_rank: int, *, device: torch.device
) -> torch.Generator:
    """A generator on `device` whose state depends only on (seed, step, logical rank).

    Also seeds torch's global generators from the same numbers, because nn.Dropout draws from them.
    """
    states = np.random.SeedSequence([seed, step, logical_rank]).generate_state(2, np.uint64)
    own, shared = (int(s) >> 1 for s in states)  # 63 bits: torch takes signed seeds
    torch.manual_seed(shared)
    return torch.Generator(device).manual_seed(own)
