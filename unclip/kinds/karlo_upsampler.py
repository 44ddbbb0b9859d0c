"""Karlo's upsampler: few steps, of which a second network takes the last."""

# B batch, N images shown, S image size

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.denoising.denoisers import upsampler_denoiser
from unclip.diffusion import schedule_of
from unclip.kinds.previews import preview_upsampler
from unclip.kinds.spec import ModelSpec
from unclip.models import KarloUpsampler, KarloUpsamplerConfig
from unclip.objectives.batch import Batch, expect
from unclip.objectives.denoising import denoising_loss
from unclip.objectives.draws import draw_timesteps, dropout_from
from unclip.presets import karlo
from unclip.samplers import Denoise


def karlo_upsampler_loss(model: KarloUpsampler, batch: Batch, generator: torch.Generator) -> Tensor:
    """The sum of both networks' losses in ε: the last network's at timestep 0, the other's at any.

    The published last network was also trained with an adversarial loss. That loss is not
    implemented here, so further training makes images smoother.
    """
    config = model.config
    pixels = expect(batch, "pixels", (3, config.image_size, config.image_size)).float()
    device = pixels.device
    enlarged = model.condition(F.interpolate(pixels, size=config.low_res_size, mode="area"))
    timesteps = draw_timesteps(batch, pixels, config.train_timesteps, generator)
    with dropout_from(generator, rate=config.unet.dropout, device=device):
        first, last = (
            denoising_loss(
                lambda x, t, network=network: network(x, t, enlarged),  # type: ignore[misc]
                pixels,
                at,
                schedule=schedule_of(config, device),
                prediction=config.prediction,
                generator=generator,
            )
            for network, at in (
                (model.forward, timesteps),
                (model.forward_last, torch.zeros_like(timesteps)),
            )
        )
    return first + last


def karlo_upsampler_denoiser(model: KarloUpsampler, enlarged: Tensor) -> Denoise:
    """As `upsampler_denoiser`, with the last network for timestep 0."""

    def predict(x: Tensor, timesteps: Tensor, given: Tensor) -> Tensor:
        network = model.forward_last if int(timesteps[0]) == 0 else model
        predicted: Tensor = network(x, timesteps, given)
        return predicted

    return upsampler_denoiser(model, enlarged, network=predict)


def preview(model: KarloUpsampler, batch: Batch, generator: torch.Generator) -> Tensor:
    """N true images, then N inputs, then N outputs; (3N, 3, S, S) in [-1, 1]."""
    return preview_upsampler(model, karlo_upsampler_denoiser, batch, generator)


SPEC = ModelSpec(
    role="upsampler",
    kind="karlo",
    config=KarloUpsamplerConfig,
    network=KarloUpsampler,
    loss=karlo_upsampler_loss,
    batch_fields=("pixels",),
    denoiser=karlo_upsampler_denoiser,
    preview=preview,
    presets={"karlo": lambda: karlo().upsamplers["upsampler_1"]},
)
