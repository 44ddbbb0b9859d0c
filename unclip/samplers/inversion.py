"""DDIM inversion: from data x_0 to the noise x_T that DDIM maps to it."""

# B batch; x (B, ...)

import torch
from torch import Tensor

from unclip.diffusion import Schedule
from unclip.samplers.common import Denoise, steps_of, timesteps_of


@torch.no_grad()
def ddim_inversion(
    denoise: Denoise,
    x_start: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    iterations: int = 1,
) -> Tensor:
    """The x_T that `ddim` with eta = 0 and the same steps maps to x_0; both (B, ...).

    Each inverse step solves x_t = f(ε(x_t)) for x_t. With one iteration the noise is predicted from
    x_s, the less noisy of the two (Song et al. 2021, section 4.3), so the error grows with the step
    size. Each further iteration predicts the noise from the latest x_t. This fixed-point iteration
    converges to the exact inverse if the steps are small enough.
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
