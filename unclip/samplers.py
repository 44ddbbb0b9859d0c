"""Samplers: from noise to data, one free function an algorithm."""

# B batch; x (B, ...)

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from unclip.diffusion import noise_from_x_start
from unclip.schedules import Schedule, respaced_timesteps

# From x_t (B, ...) and timesteps (B,) int64 to the predicted x_0 (B, ...).
Denoise = Callable[[Tensor, Tensor], Tensor]


def randn(
    shape: tuple[int, ...], *, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Standard normal noise: drawn where the generator lives, so that a seed means the same."""
    source = generator.device if generator is not None else device
    return torch.randn(shape, generator=generator, device=source).to(device)


@torch.no_grad()
def ddim(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    eta: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12): from x at the last timestep to x_0.

    eta = 0 is deterministic in x, and eta = 1 has the variance of ancestral sampling.
    """
    steps = respaced_timesteps(schedule.train_timesteps, num_inference_steps)
    # Python floats: indexing a tensor on a GPU would wait for it at each step.
    levels = [*schedule.alphas_cumprod[steps].tolist(), 1.0]
    for step, level, previous in zip(steps, levels[:-1], levels[1:], strict=True):
        timesteps = torch.full((len(x),), step, dtype=torch.int64, device=x.device)  # (B,)
        x_start = denoise(x, timesteps)
        noise = noise_from_x_start(x_start, x, timesteps, schedule=schedule)
        variance = eta**2 * (1 - previous) / (1 - level) * (1 - level / previous)
        x = previous**0.5 * x_start + max(1 - previous - variance, 0.0) ** 0.5 * noise
        if variance > 0:
            fresh = randn(tuple(x.shape), generator=generator, device=x.device)
            x = x + variance**0.5 * fresh
    return x


@torch.no_grad()
def ddim_inversion(
    denoise: Denoise, x: Tensor, *, schedule: Schedule, num_inference_steps: int
) -> Tensor:
    """From x_0 to the x_T that `ddim` with eta = 0 leads back from (Song et al. 2021, section 4.3).

    Runs DDIM's steps upwards with the prediction at the start of each, so the way back ends the
    closer to x_0 the more steps there are.
    """
    # x_0 stands for x at timestep 0, which hardly has any noise.
    steps = sorted({0, *respaced_timesteps(schedule.train_timesteps, num_inference_steps)})
    levels = schedule.alphas_cumprod[steps].tolist()
    for step, (_, following) in zip(steps, pairwise(levels), strict=False):
        timesteps = torch.full((len(x),), step, dtype=torch.int64, device=x.device)  # (B,)
        x_start = denoise(x, timesteps)
        noise = noise_from_x_start(x_start, x, timesteps, schedule=schedule)
        x = following**0.5 * x_start + (1 - following) ** 0.5 * noise
    return x
