"""Ancestral sampling: each step draws from the model's Gaussian for x_s, given x_t (DDPM)."""

# B batch; x (B, ...)

import torch
from torch import Tensor

from unclip.diffusion import Schedule, posterior_coefficients
from unclip.samplers.common import Denoise, DenoiseWithVariance, randn_like, steps_of, timesteps_of


@torch.no_grad()
def ddpm_fixed_small(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DDPM with the posterior's variance β̃ (Ho et al. 2020), right for data of one point."""
    for timestep, alpha_bar, alpha_bar_prev in steps_of(schedule, num_inference_steps):
        x_start = denoise(x, timesteps_of(x, timestep))
        of_x_start, of_x, variance = posterior_coefficients(alpha_bar, alpha_bar_prev)
        x = of_x_start * x_start + of_x * x
        if alpha_bar_prev < 1:
            x = x + variance**0.5 * randn_like(x, generator)
    return x


@torch.no_grad()
def ddpm_fixed_large(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DDPM with the forward process's variance β (Ho et al. 2020), right for normal data."""
    for timestep, alpha_bar, alpha_bar_prev in steps_of(schedule, num_inference_steps):
        x_start = denoise(x, timesteps_of(x, timestep))
        of_x_start, of_x, _ = posterior_coefficients(alpha_bar, alpha_bar_prev)
        x = of_x_start * x_start + of_x * x
        if alpha_bar_prev < 1:
            x = x + (1 - alpha_bar / alpha_bar_prev) ** 0.5 * randn_like(x, generator)
    return x


@torch.no_grad()
def ddpm_learned(
    denoise: DenoiseWithVariance,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DDPM with a learned variance between β̃ and β (Nichol and Dhariwal 2021, eq. 15).

    β̃ and β are those of the steps taken, so one network serves any number of them.
    """
    for timestep, alpha_bar, alpha_bar_prev in steps_of(schedule, num_inference_steps):
        x_start, output = denoise(x, timesteps_of(x, timestep))
        of_x_start, of_x, small = posterior_coefficients(alpha_bar, alpha_bar_prev)
        x = of_x_start * x_start + of_x * x
        if alpha_bar_prev < 1:
            large = 1 - alpha_bar / alpha_bar_prev
            std = small**0.5 * (large / small) ** ((output + 1) / 4)  # (B, ...)
            x = x + std * randn_like(x, generator)
    return x
