"""Samplers: from noise x_T to data x_0. The algorithms and `SAMPLERS` are in `algorithms`."""

from unclip.samplers.algorithms import (
    ETA,
    LEARNED_VARIANCE,
    NOISE_NORMS,
    SAMPLERS,
    Sampler,
    analytic_dpm,
    ddim,
    ddpm_fixed_large,
    ddpm_fixed_small,
    ddpm_learned,
    dpm_solver_pp_2m,
    find_sampler,
    needs,
    needs_of,
    sample,
)
from unclip.samplers.analytic import analytic_variance, estimate_noise_norms
from unclip.samplers.common import (
    Denoise,
    DenoiseWithVariance,
    Generators,
    Step,
    randn,
    randn_like,
    steps_of,
)
from unclip.samplers.inversion import ddim_inversion

__all__ = [
    "ETA",
    "LEARNED_VARIANCE",
    "NOISE_NORMS",
    "SAMPLERS",
    "Denoise",
    "DenoiseWithVariance",
    "Generators",
    "Sampler",
    "Step",
    "analytic_dpm",
    "analytic_variance",
    "ddim",
    "ddim_inversion",
    "ddpm_fixed_large",
    "ddpm_fixed_small",
    "ddpm_learned",
    "dpm_solver_pp_2m",
    "estimate_noise_norms",
    "find_sampler",
    "needs",
    "needs_of",
    "randn",
    "randn_like",
    "sample",
    "steps_of",
]
