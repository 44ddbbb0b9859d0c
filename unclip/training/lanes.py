"""Lanes: who owns which microbatch of a step, and the randomness that belongs to it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from unclip.config import ConfigError

# CPU tensors by name, first axis the sample; "keys", a list of str, names the samples in errors.
Batch = Mapping[str, Any]

# batches(start_step, lanes) yields, for start_step, start_step + 1, ... without end, the microbatch
# of each of `lanes`. What it yields for (step, lane) must follow from those two numbers alone.
Batches = Callable[[int, tuple[int, ...]], Iterator[Sequence[Batch]]]

Model = TypeVar("Model", bound=nn.Module)
# loss(model, batch on the device, generator on the device) -> mean over the batch, a scalar
Loss = Callable[[Model, Batch, torch.Generator], Tensor]


def lanes_of(rank: int, *, world_size: int, lanes: int) -> tuple[int, ...]:
    """The lanes that worker `rank` of `world_size` owns."""
    if lanes % world_size:
        usable = [n for n in range(1, lanes + 1) if lanes % n == 0]
        raise ConfigError(
            f"training: {world_size} workers cannot share lanes={lanes} evenly; "
            f"use one of {usable} workers, or start a new run with another number of lanes"
        )
    return tuple(range(rank, lanes, world_size))


def seed_lane(seed: int, step: int, lane: int, *, device: torch.device) -> torch.Generator:
    """A generator on `device` whose state follows from (seed, step, lane) alone.

    torch's global generators are seeded from the same numbers, because nn.Dropout draws from them.
    """
    states = np.random.SeedSequence([seed, step, lane]).generate_state(2, np.uint64)
    own, shared = (int(s) >> 1 for s in states)  # 63 bits: torch takes signed seeds
    torch.manual_seed(shared)
    return torch.Generator(device).manual_seed(own)
