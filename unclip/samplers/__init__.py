"""Samplers: from noise to data, one free function an algorithm.

All take the denoiser and x_T, and as keywords the schedule, num_inference_steps and a generator.
"""

from collections.abc import Callable

from torch import Tensor

from unclip.config import ConfigError
from unclip.samplers.analytic import analytic_dpm, analytic_variance, estimate_noise_norms
from unclip.samplers.ancestral import ddpm_fixed_large, ddpm_fixed_small, ddpm_learned
from unclip.samplers.common import Denoise, DenoiseWithVariance, Step, randn, randn_like, steps_of
from unclip.samplers.deterministic import ddim, ddim_inversion
from unclip.samplers.dpm_solver import dpm_solver_pp_2m

SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim,  # also takes eta
    "ddpm_fixed_small": ddpm_fixed_small,
    "ddpm_fixed_large": ddpm_fixed_large,
    "ddpm_learned": ddpm_learned,  # takes a denoiser that tells the variance too
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "analytic_dpm": analytic_dpm,  # also takes noise_norms
}


def check_sampler(what: str, name: str, *, known: tuple[str, ...] = tuple(SAMPLERS)) -> None:
    """Raise `ConfigError` for a sampler that is not among the known ones."""
    if name not in known:
        raise ConfigError(f"{what}={name!r} is not known; choose one of {', '.join(known)}")


__all__ = [
    "SAMPLERS",
    "Denoise",
    "DenoiseWithVariance",
    "Step",
    "analytic_dpm",
    "analytic_variance",
    "check_sampler",
    "ddim",
    "ddim_inversion",
    "ddpm_fixed_large",
    "ddpm_fixed_small",
    "ddpm_learned",
    "dpm_solver_pp_2m",
    "estimate_noise_norms",
    "randn",
    "randn_like",
    "steps_of",
]
