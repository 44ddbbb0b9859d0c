"""The optimal variance of ancestral sampling (Analytic-DPM, Bao et al. 2022)."""

# B batch; x (B, ...); N inference steps

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unclip.config import ConfigError
from unclip.diffusion import Schedule, posterior_coefficients
from unclip.samplers.common import (
    Denoise,
    Generators,
    Step,
    randn_like,
    steps_of,
    timesteps_of,
)


@torch.no_grad()
def estimate_noise_norms(
    batches: Iterable[tuple[Denoise, Tensor]],
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: Generators | None = None,
) -> Tensor:
    """E |ε(x_t)|² / d at each step, the paper's (1 - ᾱ_t) Γ_t; (N,) float64, first step first.

    batches: pairs of a denoiser and data x_0 (B, ...) from the distribution that it was trained on.
    The denoiser must be unguided: guidance moves x̂_0 away from x_0, which counts as error here and
    makes the norms too small. Raises `ConfigError` without data.

    The estimate uses the error in x_0: for the optimal denoiser,
    E |ε(x_t)|² / d = 1 - ᾱ_t / (1 - ᾱ_t) E |x_0 - x̂_0|² / d. Near the end of the schedule the norm
    is so close to 1 that the sampling error of a direct estimate would exceed the difference.
    """
    steps = list(steps_of(schedule, num_inference_steps))
    sums, rows = torch.zeros(len(steps), dtype=torch.float64), 0
    for denoise, x_start in batches:
        rows += len(x_start)
        for index, (timestep, alpha_bar, _) in enumerate(steps):
            x = alpha_bar**0.5 * x_start + (1 - alpha_bar) ** 0.5 * randn_like(x_start, generator)
            predicted = denoise(x, timesteps_of(x, timestep))
            error = (predicted - x_start).double().square().flatten(1).mean(1).sum()
            sums[index] += len(x) - alpha_bar / (1 - alpha_bar) * error.cpu()
    if rows == 0:
        raise ConfigError("noise norms cannot be estimated without data; give at least one batch")
    return sums / rows


def analytic_variance(step: Step, noise_norm: float) -> float:
    """The optimal variance of x_s given x_t (theorem 1).

    noise_norm: E |ε(x_t)|² / d, clamped to its bounds [0, 1] (theorem 2).
    """
    _, alpha_bar, alpha_bar_prev = step
    small = posterior_coefficients(alpha_bar, alpha_bar_prev)[2]
    least = math.sqrt(max(1 - alpha_bar_prev - small, 0.0))
    spread = math.sqrt((1 - alpha_bar) * alpha_bar_prev / alpha_bar) - least
    return small + spread**2 * (1 - min(max(noise_norm, 0.0), 1.0))
