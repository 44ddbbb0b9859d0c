"""The denoiser of an upsampler."""

# B batch, S image size

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unclip.denoisers.guidance import clamp_static
from unclip.diffusion import schedule_of, to_x_start
from unclip.samplers import Denoise

# From x_t (B, 3, S, S), timesteps (B,) and the enlarged image (B, 3, S, S) to the prediction.
Network = Callable[[Tensor, Tensor, Tensor], Tensor]


def upsampler_denoiser(model: Any, enlarged: Tensor, *, network: Network | None = None) -> Denoise:
    """Predicts x_0 as it is noised; the pixels that it stands for are clamped to [-1, 1].

    model: an `Upsampler` or one with the same methods; enlarged: (B, 3, S, S) from its `condition`;
    network: predicts in place of the model.
    """
    schedule, config = schedule_of(model.config, enlarged.device), model.config
    predict = network or model

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        output: Tensor = predict(x, timesteps, enlarged)
        x_start = to_x_start(config.prediction, output.float(), x, timesteps, schedule=schedule)
        diffused: Tensor = model.to_diffused(
            clamp_static(model.to_pixels(x_start, enlarged)), enlarged
        )
        return diffused

    return denoise
