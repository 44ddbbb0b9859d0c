"""The upsamplers of the paper (section 2.1), trained on crops with degraded inputs."""

# B batch, C channels, N images shown, S image size

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.degradations import degrade
from unclip.denoising.denoisers import upsampler_denoiser
from unclip.diffusion import schedule_of
from unclip.kinds.previews import preview_upsampler
from unclip.kinds.spec import ModelSpec
from unclip.models import Upsampler, UpsamplerConfig
from unclip.objectives.batch import Batch, expect
from unclip.objectives.denoising import denoising_loss
from unclip.objectives.draws import draw_timesteps, dropout_from
from unclip.presets import paper, small, tiny
from unclip.samplers import randn


def upsampler_loss(model: Upsampler, batch: Batch, generator: torch.Generator) -> Tensor:
    """Denoising loss on random crops, conditioned on degraded low-resolution versions of them."""
    config = model.config
    pixels = expect(batch, "pixels", (3, config.image_size, config.image_size))
    pixels = _random_crops(pixels, config.crop_size, multiple=config.scale, generator=generator)
    low_res = F.interpolate(pixels, scale_factor=1 / config.scale, mode="area")
    low_res = degrade(
        low_res,
        config.degradation,
        probability=config.degradation_probability,
        generator=generator,
    )
    low_res, noise_std = _add_noise(low_res, config.low_res_noise, generator)
    enlarged = model.condition(low_res)
    x_start = model.to_diffused(pixels.float(), enlarged)
    device = pixels.device
    with dropout_from(generator, rate=config.unet.dropout, device=device):
        return denoising_loss(
            lambda x, timesteps: model(x, timesteps, enlarged, noise_std),
            x_start,
            draw_timesteps(batch, x_start, config.train_timesteps, generator),
            schedule=schedule_of(config, device),
            prediction=config.prediction,
            min_snr_gamma=config.min_snr_gamma,
            generator=generator,
        )


def _add_noise(
    low_res: Tensor, largest: float | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Add noise with a std drawn from [0, largest] for each row; returns the std too, (B,)."""
    if largest is None:
        return low_res, None
    std = torch.rand(len(low_res), generator=generator, device=generator.device) * largest
    std = std.to(low_res.device)
    noise = randn(tuple(low_res.shape), generator=generator, device=low_res.device)
    return low_res + std[:, None, None, None] * noise, std


def _random_crops(
    pixels: Tensor, size: int, *, multiple: int, generator: torch.Generator
) -> Tensor:
    """Crop a random square from each image: (B, C, S, S) -> (B, C, size, size).

    Corners are multiples of `multiple`, so that the low-resolution crop is aligned with the pixels
    of the low-resolution image.
    """
    choices = (pixels.shape[-1] - size) // multiple + 1
    if choices == 1:
        return pixels[..., :size, :size]
    corners = torch.randint(choices, (len(pixels), 2), generator=generator, device=generator.device)
    return torch.stack(
        [
            image[:, top : top + size, left : left + size]
            for image, (top, left) in zip(pixels, (corners * multiple).tolist(), strict=True)
        ]
    )


def preview(model: Upsampler, batch: Batch, generator: torch.Generator) -> Tensor:
    """N true images, then N inputs, then N outputs; (3N, 3, S, S) in [-1, 1]."""
    return preview_upsampler(model, upsampler_denoiser, batch, generator)


SPEC = ModelSpec(
    role="upsampler",
    kind="paper",
    config=UpsamplerConfig,
    network=Upsampler,
    loss=upsampler_loss,
    batch_fields=("pixels",),
    denoiser=upsampler_denoiser,
    preview=preview,
    presets={
        "tiny": lambda: tiny().upsamplers["upsampler_1"],
        "small": lambda: small().upsamplers["upsampler_1"],
        "paper": lambda: paper().upsamplers["upsampler_1"],
    },
)
