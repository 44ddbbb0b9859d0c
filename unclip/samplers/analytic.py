"""Analytic-DPM (Bao et al. 2022): ancestral sampling with the optimal variance, estimated once."""

# B batch; x (B, ...); N inference steps

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unclip.config import ConfigError
from unclip.diffusion import Schedule, posterior_coefficients
from unclip.samplers.common import Denoise, Step, randn_like, steps_of, timesteps_of


@torch.no_grad()
def estimate_noise_norms(
    batches: Iterable[tuple[Denoise, Tensor]],
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """E |ε(x_t)|² / d at each step, the paper's (1 - ᾱ_t) Γ_t; (N,) float64, first step first.

    batches: a denoiser with data x_0 (B, ...) that it is conditioned on. The norm is had from the
    error in x_0, to which it is tied by E |ε(x_t)|² / d = 1 - ᾱ_t / (1 - ᾱ_t) E |x_0 - x̂_0|² / d
    for the best denoiser: where hardly any signal is left, it differs from 1 by less than the
    spread of a direct estimate, which the variance would multiply.
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
        raise ConfigError("noise norms cannot be estimated from no data; give at least one batch")
    return sums / rows


def analytic_variance(step: Step, noise_norm: float) -> float:
    """The variance of x_s given x_t that fits the reverse process best (theorem 1).

    noise_norm: E |ε(x_t)|² / d, kept within its bounds [0, 1] (theorem 2).
    """
    _, alpha_bar, alpha_bar_prev = step
    small = posterior_coefficients(alpha_bar, alpha_bar_prev)[2]
    least = math.sqrt(max(1 - alpha_bar_prev - small, 0.0))
    spread = math.sqrt((1 - alpha_bar) * alpha_bar_prev / alpha_bar) - least
    return small + spread**2 * (1 - min(max(noise_norm, 0.0), 1.0))


@torch.no_grad()
def analytic_dpm(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    noise_norms: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ancestral sampling with `analytic_variance`.

    noise_norms: (N,) from `estimate_noise_norms` with as many steps.
    """
    if len(noise_norms) != num_inference_steps:
        raise ConfigError(
            f"noise_norms were estimated for {len(noise_norms)} steps, but num_inference_steps="
            f"{num_inference_steps}; estimate them for as many"
        )
    steps = steps_of(schedule, num_inference_steps)
    for step, noise_norm in zip(steps, noise_norms.tolist(), strict=True):
        x_start = denoise(x, timesteps_of(x, step.timestep))
        of_x_start, of_x, _ = posterior_coefficients(step.alpha_bar, step.alpha_bar_prev)
        x = of_x_start * x_start + of_x * x
        if step.alpha_bar_prev < 1:
            x = x + analytic_variance(step, noise_norm) ** 0.5 * randn_like(x, generator)
    return x
