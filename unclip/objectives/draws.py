"""Random draws of a training step, all from the generator that the caller passes."""

# B batch

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from unclip.objectives.batch import Batch


def draw_timesteps(
    batch: Batch, x_start: Tensor, train_timesteps: int, generator: torch.Generator
) -> Tensor:
    """Uniform timesteps in [0, train_timesteps) for the rows of x_start (B, ...); (B,) int64.

    If the batch has timesteps, these are used.
    """
    if "timesteps" in batch:
        given: Tensor = batch["timesteps"].to(x_start.device)
        return given
    shape = (len(x_start),)
    drawn = torch.randint(train_timesteps, shape, generator=generator, device=generator.device)
    return drawn.to(x_start.device)


def bernoulli(rate: float, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """True with probability `rate`; (B,) bool."""
    return (torch.rand(count, generator=generator, device=generator.device) < rate).to(device)


@contextmanager
def dropout_from(
    generator: torch.Generator, *, rate: float, device: torch.device
) -> Iterator[None]:
    """Seed torch's global generator from ours, because nn.Dropout accepts no generator.

    The global state is restored afterwards.
    """
    if rate == 0:
        yield
        return
    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed))
        yield
