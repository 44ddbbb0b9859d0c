"""What all samplers share: what they ask of a model, their noise and the steps they take."""

# B batch; x (B, ...)

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion import Schedule, respaced_timesteps

# From x_t (B, ...) and timesteps (B,) int64 to the predicted x_0 (B, ...).
Denoise = Callable[[Tensor, Tensor], Tensor]

# The same, with the network's output for the variance, (B, ...) mostly in [-1, 1], beside x_0.
DenoiseWithVariance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Step(NamedTuple):
    """One step of a sampler, from x_t to x_s."""

    timestep: int  # t
    alpha_bar: float  # ᾱ_t
    alpha_bar_prev: float  # ᾱ_s, 1 in the last step


def steps_of(schedule: Schedule, num_inference_steps: int) -> Iterator[Step]:
    """The steps from the last timestep to x_0."""
    timesteps = respaced_timesteps(schedule.train_timesteps, num_inference_steps)
    # Python floats: indexing a tensor on a GPU would wait for it at each step.
    alpha_bars = [*schedule.alphas_cumprod[timesteps].tolist(), 1.0]
    return map(Step, timesteps, alpha_bars[:-1], alpha_bars[1:])


def timesteps_of(x: Tensor, timestep: int) -> Tensor:
    """The same timestep for each row of x; (B,) int64."""
    return torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)


def randn(
    shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Standard normal noise: drawn where the generator lives, so that a seed means the same."""
    source = generator.device if generator is not None else device
    return torch.randn(shape, generator=generator, device=source).to(device)


def randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise in the shape, the dtype and the place of x."""
    return randn(tuple(x.shape), generator=generator, device=x.device).to(x.dtype)
