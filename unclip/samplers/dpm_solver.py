"""DPM-Solver++ (Lu et al. 2022b): few steps of higher order along the path that DDIM follows."""

# B batch; x (B, ...)

import math

import torch
from torch import Tensor

from unclip.diffusion import Schedule
from unclip.samplers.common import Denoise, steps_of, timesteps_of


@torch.no_grad()
def dpm_solver_pp_2m(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DPM-Solver++ (2M), algorithm 2 of the paper: second order, one prediction a step.

    Deterministic: the generator is there for the sake of the samplers' common signature. The first
    step, which has no prediction before it, and the last, which is to no noise, are of first order.
    """
    del generator
    earlier, earlier_width = None, 0.0  # the prediction before, and the width of the step to here
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
    """λ = log(sqrt(ᾱ) / sqrt(1 - ᾱ)), the time in which the solver's steps are even."""
    return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))
