"""DDIM, from noise to data and from data to the noise that it comes from."""

# B batch; x (B, ...)

import torch
from torch import Tensor

from unclip.diffusion import Schedule
from unclip.samplers.common import Denoise, randn_like, steps_of, timesteps_of


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
def ddim_inversion(
    denoise: Denoise,
    x_start: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    iterations: int = 1,
) -> Tensor:
    """The x_T from which `ddim` with eta = 0 and the same steps leads to x_0 (B, ...).

    A step of DDIM takes its noise from the x_t that is sought here: x_t = f(ε(x_t)). One iteration
    takes it from the x_s before (Song et al. 2021, section 4.3), which errs by the size of the
    steps; each further one puts in the x_t just found, so that they converge to the exact inverse.
    """
    x = x_start
    for timestep, alpha_bar, alpha_bar_prev in reversed(
        list(steps_of(schedule, num_inference_steps))
    ):
        timesteps = timesteps_of(x, timestep)
        signal = (alpha_bar / alpha_bar_prev) ** 0.5
        of_noise = (1 - alpha_bar) ** 0.5 - signal * (1 - alpha_bar_prev) ** 0.5
        found = x
        for _ in range(iterations):
            noise = (found - alpha_bar**0.5 * denoise(found, timesteps)) / (1 - alpha_bar) ** 0.5
            found = signal * x + of_noise * noise
        x = found
    return x
