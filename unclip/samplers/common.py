"""What all samplers share: the denoiser types, the noise and the steps."""

# B rows, K draws for each row, G generators; x (B, ...)

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.config import ConfigError
from unclip.diffusion import Schedule, respaced_timesteps

# Maps x_t (B, ...) and timesteps (B,) int64 to the predicted x_0 (B, ...).
Denoise = Callable[[Tensor, Tensor], Tensor]

# The same, and also returns the network's variance output: (B, ...), mostly in [-1, 1].
DenoiseWithVariance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# One generator for a whole batch, or one generator for each row of it.
Generators = torch.Generator | Sequence[torch.Generator]


class Step(NamedTuple):
    """One step of a sampler, from x_t to x_s."""

    timestep: int  # t
    alpha_bar: float  # ᾱ_t
    alpha_bar_prev: float  # ᾱ_s, 1 in the last step


def generator_for(*words: object) -> torch.Generator:
    """A generator seeded by the digest of these words: the same on any machine.

    `generator_for(seed, number)` draws the noise of one image of several, whatever its batch.
    """
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def steps_of(schedule: Schedule, num_inference_steps: int) -> Iterator[Step]:
    """The steps of a sampler, from the last timestep down to x_0."""
    timesteps = respaced_timesteps(schedule.train_timesteps, num_inference_steps)
    # Python floats: indexing a tensor on a GPU would synchronise at each step.
    alpha_bars = [*schedule.alphas_cumprod[timesteps].tolist(), 1.0]
    return map(Step, timesteps, alpha_bars[:-1], alpha_bars[1:])


def timesteps_of(x: Tensor, timestep: int) -> Tensor:
    """The same timestep for each row of x; (B,) int64."""
    return torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)


def randn(shape: tuple[int, ...], *, generator: Generators | None, device: torch.device) -> Tensor:
    """Standard normal noise, drawn on the generator's device: `device` does not change the values.

    With G generators, the first axis is split evenly: the first K = shape[0] / G rows come from
    the first generator, the next K from the second, and so on. A row's noise then does not depend
    on the other rows. Raises `ConfigError` if the rows cannot be split evenly.
    """
    if generator is None:
        return torch.randn(shape, device=device)
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=generator.device).to(device)
    draws, rest = divmod(shape[0], len(generator)) if len(generator) else (0, 1)
    if rest:
        raise ConfigError(
            f"{len(generator)} generators cannot share {shape[0]} rows of noise evenly; give one "
            "generator for the whole batch, or one for each row"
        )
    own = (draws, *shape[1:])
    return torch.cat([torch.randn(own, generator=g, device=g.device) for g in generator]).to(device)


def randn_like(x: Tensor, generator: Generators | None) -> Tensor:
    """Standard normal noise with the shape, dtype and device of x."""
    return randn(tuple(x.shape), generator=generator, device=x.device).to(x.dtype)
