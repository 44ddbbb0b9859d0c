"""The samplers: from noise x_T to data x_0, one function for each algorithm.

A sampler takes a denoiser and x_T, and the keywords schedule, num_inference_steps and generator.
`@needs` declares anything else that it needs. To add a sampler, write a function here and add its
name to `SAMPLERS`. Users name their own function as "module:function".
"""

# B batch; x (B, ...); N inference steps

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from unclip.config import ConfigError
from unclip.diffusion import Schedule, posterior_coefficients
from unclip.extension import resolve
from unclip.samplers.analytic import analytic_variance
from unclip.samplers.common import (
    Denoise,
    DenoiseWithVariance,
    Generators,
    randn_like,
    steps_of,
    timesteps_of,
)

Sampler = Callable[..., Tensor]
AnySampler = TypeVar("AnySampler", bound=Sampler)

ETA = "eta"  # keyword: how much noise the steps add, in [0, 1]
NOISE_NORMS = "noise_norms"  # keyword: (N,) from `estimate_noise_norms`
LEARNED_VARIANCE = "learned_variance"  # the denoiser is a `DenoiseWithVariance`


def needs(*what: str) -> Callable[[AnySampler], AnySampler]:
    """Declare what a sampler needs: ETA, NOISE_NORMS or LEARNED_VARIANCE."""

    def declare(sampler: AnySampler) -> AnySampler:
        sampler.needs = frozenset(what)  # type: ignore[attr-defined]
        return sampler

    return declare


def needs_of(sampler: Sampler) -> frozenset[str]:
    """The needs that `@needs` declared for a sampler; empty without `@needs`."""
    declared: frozenset[str] = getattr(sampler, "needs", frozenset())
    return declared


@needs(ETA)
@torch.no_grad()
def ddim(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    eta: float,
    generator: Generators | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12).

    eta = 0 is deterministic given x_T; eta = 1 has the variance β̃ of `ddpm_fixed_small`.
    """
    for timestep, alpha_bar, alpha_bar_prev in steps_of(schedule, num_inference_steps):
        x_start = denoise(x, timesteps_of(x, timestep))
        noise = (x - alpha_bar**0.5 * x_start) / (1 - alpha_bar) ** 0.5
        variance = (
            eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
        )
        x = alpha_bar_prev**0.5 * x_start + max(1 - alpha_bar_prev - variance, 0.0) ** 0.5 * noise
        if variance > 0:
            x = x + variance**0.5 * randn_like(x, generator)
    return x


@torch.no_grad()
def ddpm_fixed_small(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: Generators | None = None,
) -> Tensor:
    """DDPM with the posterior variance β̃ (Ho et al. 2020, section 3.2), optimal for fixed x_0."""
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
    generator: Generators | None = None,
) -> Tensor:
    """DDPM with the forward variance β (Ho et al. 2020, section 3.2), optimal for x_0 ~ N(0, I)."""
    for timestep, alpha_bar, alpha_bar_prev in steps_of(schedule, num_inference_steps):
        x_start = denoise(x, timesteps_of(x, timestep))
        of_x_start, of_x, _ = posterior_coefficients(alpha_bar, alpha_bar_prev)
        x = of_x_start * x_start + of_x * x
        if alpha_bar_prev < 1:
            x = x + (1 - alpha_bar / alpha_bar_prev) ** 0.5 * randn_like(x, generator)
    return x


@needs(LEARNED_VARIANCE)
@torch.no_grad()
def ddpm_learned(
    denoise: DenoiseWithVariance,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: Generators | None = None,
) -> Tensor:
    """DDPM with a learned variance between β̃ and β (Nichol and Dhariwal 2021, eq. 15).

    β̃ and β are those of the respaced steps, so one network serves any number of steps.
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


@torch.no_grad()
def dpm_solver_pp_2m(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: Generators | None = None,  # noqa: ARG001
) -> Tensor:
    """DPM-Solver++ (2M) (Lu et al. 2022b, algorithm 2): second order, one prediction per step.

    Deterministic given x_T. The first step has no earlier prediction and the last ends at x_0, so
    these two are of first order.
    """
    earlier, earlier_width = None, 0.0  # the previous prediction, and the width of its step in λ
    for timestep, alpha_bar, alpha_bar_prev in steps_of(schedule, num_inference_steps):
        x_start = denoise(x, timesteps_of(x, timestep))
        if alpha_bar_prev == 1:
            return x_start
        width = half_log_snr(alpha_bar_prev) - half_log_snr(alpha_bar)
        direction = x_start
        if earlier is not None:
            direction = x_start + width / (2 * earlier_width) * (x_start - earlier)
        rate = ((1 - alpha_bar_prev) / (1 - alpha_bar)) ** 0.5
        x = rate * x - alpha_bar_prev**0.5 * math.expm1(-width) * direction
        earlier, earlier_width = x_start, width
    return x


def half_log_snr(alpha_bar: float) -> float:
    """λ = log(sqrt(ᾱ) / sqrt(1 - ᾱ)), the variable in which the solver takes its steps."""
    return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))


@needs(NOISE_NORMS)
@torch.no_grad()
def analytic_dpm(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    noise_norms: Tensor,
    generator: Generators | None = None,
) -> Tensor:
    """Analytic-DPM (Bao et al. 2022): ancestral sampling with the estimated optimal variance.

    noise_norms: (N,) from `estimate_noise_norms` with the same number of steps.
    """
    if len(noise_norms) != num_inference_steps:
        raise ConfigError(
            f"noise_norms were estimated for {len(noise_norms)} steps, but num_inference_steps="
            f"{num_inference_steps}; estimate them for that number of steps"
        )
    steps = steps_of(schedule, num_inference_steps)
    for step, noise_norm in zip(steps, noise_norms.tolist(), strict=True):
        x_start = denoise(x, timesteps_of(x, step.timestep))
        of_x_start, of_x, _ = posterior_coefficients(step.alpha_bar, step.alpha_bar_prev)
        x = of_x_start * x_start + of_x * x
        if step.alpha_bar_prev < 1:
            x = x + analytic_variance(step, noise_norm) ** 0.5 * randn_like(x, generator)
    return x


SAMPLERS: Mapping[str, Sampler] = {
    "ddim": ddim,
    "ddpm_fixed_small": ddpm_fixed_small,
    "ddpm_fixed_large": ddpm_fixed_large,
    "ddpm_learned": ddpm_learned,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "analytic_dpm": analytic_dpm,
}


def find_sampler(name: str, *, what: str, provided: frozenset[str]) -> Sampler:
    """The built-in sampler of that name, or the function that "module:function" names.

    what: the setting, for error messages; provided: the needs that the caller can meet. Raises
    `ConfigError` for an unknown sampler, and for one with other needs.
    """
    usable = {n: sampler for n, sampler in SAMPLERS.items() if needs_of(sampler) <= provided}
    sampler = resolve(name, SAMPLERS, what=what)
    if not callable(sampler):
        raise ConfigError(f"{what}={name!r} is of type {type(sampler).__name__}, not a function")
    missing = sorted(needs_of(sampler) - provided)
    if missing:
        raise ConfigError(
            f"{what}={name!r} needs {' and '.join(missing)}, which this model does not provide; "
            f"choose one of {', '.join(usable)}"
        )
    return sampler


def sample(sampler: Sampler, denoise: Any, x: Tensor, *, options: Mapping[str, Any]) -> Tensor:
    """Run a sampler with the `options` that it takes: the common ones, and those it needs."""
    keywords = {"schedule", "num_inference_steps", "generator", *needs_of(sampler)}
    drawn: Tensor = sampler(denoise, x, **{k: v for k, v in options.items() if k in keywords})
    return drawn
