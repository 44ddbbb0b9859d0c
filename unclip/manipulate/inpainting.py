"""Inpainting: replace a part of an image and keep all other pixels."""

# B batch, S image size, s size of a mask or image before resizing, E width of the CLIP embeddings
# Masks are bool, True where the image is replaced.

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from unclip.config import ConfigError
from unclip.diffusion import Schedule, noise_from_x_start, schedule_of
from unclip.generation import Cascade
from unclip.images import to_rgb
from unclip.kinds import spec_of
from unclip.samplers import Denoise, Generators, ddim, randn, steps_of
from unclip.samplers.common import timesteps_of
from unclip.validation import check_rows, check_shape


@dataclass(frozen=True)
class _Canvas:
    """An image at one size, and its mask."""

    pixels: Tensor  # (B, 3, S, S) in [-1, 1]
    mask: Tensor  # (B, 1, S, S) bool

    def keep(self, painted: Tensor) -> Tensor:
        """The painted pixels inside the mask, and the image's own pixels outside."""
        return torch.where(self.mask, painted, self.pixels)


@torch.no_grad()
def inpaint(
    cascade: Cascade,
    pixels: Tensor,
    mask: Tensor,
    image_embeds: Tensor,
    tokens: Tensor | None = None,
    *,
    resamplings: int = 4,
    generator: Generators,
) -> Tensor:
    """Inpaint where the mask is True; (B, 3, S, S) in [-1, 1].

    pixels: (B, 3, S, S) in [-1, 1] and mask: (B, 1, S, S) bool, at the cascade's largest size;
    image_embeds: (B, E), of the desired image; tokens: (B, L) int64; resamplings: how often the
    decoder repeats each step, which harmonises the new part with the old.
    """
    small, *larger = _canvases(cascade, pixels, mask)
    check_rows(pixels=pixels, image_embeds=image_embeds)
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=cascade.sampling.bf16):
        painted = _paint(cascade, small, image_embeds, tokens, resamplings, generator)
        for (name, model), canvas in zip(cascade.upsamplers.items(), larger, strict=True):
            steps = cascade.sampling.upsamplers[name].num_inference_steps
            painted = _refine(model, painted, canvas, steps, generator)
    return painted


@torch.no_grad()
def repaint(
    denoise: Denoise,
    x: Tensor,
    *,
    schedule: Schedule,
    num_inference_steps: int,
    resamplings: int,
    generator: Generators,
) -> Tensor:
    """RePaint (Lugmayr et al. 2022, algorithm 1) with DDIM steps; x: (B, ...), the initial x_T.

    Each step is taken `resamplings` times, with noise added back in between. `denoise` must return
    the known values of x_0 outside the mask, so that x_t there is the noised known image.
    """
    if resamplings < 1:
        raise ConfigError(f"resamplings={resamplings} must be at least 1; 1 takes each step once")
    for timestep, alpha_bar, alpha_bar_prev in steps_of(schedule, num_inference_steps):
        timesteps = timesteps_of(x, timestep)
        for again in reversed(range(resamplings)):
            x_start = denoise(x, timesteps)
            noise = noise_from_x_start(x_start, x, timesteps, schedule=schedule)
            x = alpha_bar_prev**0.5 * x_start + (1 - alpha_bar_prev) ** 0.5 * noise
            if again:
                alpha = alpha_bar / alpha_bar_prev  # of the forward step back to t
                fresh = randn(tuple(x.shape), generator=generator, device=x.device)
                x = alpha**0.5 * x + (1 - alpha) ** 0.5 * fresh
    return x


def without(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The RGB image with the masked part in the mean colour of the rest; grey if all is masked.

    mask: mode L, of the image's size; every pixel above 0 is masked.
    """
    pixels, covered = np.array(image), np.asarray(mask) > 0
    kept = pixels[~covered]
    pixels[covered] = kept.mean(0) if len(kept) else 128
    return Image.fromarray(pixels)


def fit_image(image: Image.Image, size: int) -> Image.Image:
    """The central square at `size`, in RGB."""
    return ImageOps.fit(to_rgb(image), (size, size), method=Image.Resampling.LANCZOS)


def fit_mask(mask: Image.Image, size: int) -> Tensor:
    """A mask of mode L as (1, 1, S, S) bool, S = size; partly covered pixels are True."""
    fitted = ImageOps.fit(mask, (size, size), method=Image.Resampling.BOX)
    return torch.from_numpy(np.array(fitted) > 0)[None, None]


def shrink_mask(mask: Tensor, size: int) -> Tensor:
    """Shrink a mask (B, 1, s, s) bool to `size`: True where any covered pixel is True."""
    return F.adaptive_max_pool2d(mask.float(), size) > 0


def _canvases(cascade: Cascade, pixels: Tensor, mask: Tensor) -> list[_Canvas]:
    """The image and its mask at each size of the cascade, smallest first."""
    largest, hint = cascade.sizes[-1], "resize it to the largest size of this cascade"
    check_shape("pixels", pixels, ("B", 3, largest, largest), hint)
    check_shape("mask", mask, (len(pixels), 1, largest, largest), hint)
    if mask.dtype != torch.bool:
        raise ConfigError(
            f"mask has dtype {mask.dtype}; give torch.bool, True where the image is to be painted"
        )
    return [
        _Canvas(F.interpolate(pixels, size=size, mode="area"), shrink_mask(mask, size))
        for size in cascade.sizes
    ]


def _paint(
    cascade: Cascade,
    canvas: _Canvas,
    image_embeds: Tensor,
    tokens: Tensor | None,
    resamplings: int,
    generator: Generators,
) -> Tensor:
    """Inpaint with the decoder; (B, 3, S, S)."""
    device = canvas.pixels.device
    denoise = cascade.decoder_denoiser(image_embeds, tokens)
    painted = repaint(
        lambda x, timesteps: canvas.keep(denoise(x, timesteps)),
        randn(tuple(canvas.pixels.shape), generator=generator, device=device),
        schedule=schedule_of(cascade.decoder.config, device),
        num_inference_steps=cascade.sampling.decoder.num_inference_steps,
        resamplings=resamplings,
        generator=generator,
    )
    return canvas.keep(painted.clamp(-1, 1))


def _refine(
    model: Any, low_res: Tensor, canvas: _Canvas, steps: int, generator: Generators
) -> Tensor:
    """Inpaint with an upsampler: low_res (B, 3, s, s) -> (B, 3, S, S)."""
    enlarged = model.condition(low_res)
    denoiser = spec_of(model).denoiser
    assert denoiser is not None
    denoise = denoiser(model, enlarged)

    def keep(x: Tensor, timesteps: Tensor) -> Tensor:
        made: Tensor = model.to_pixels(denoise(x, timesteps), enlarged)
        diffused: Tensor = model.to_diffused(canvas.keep(made), enlarged)
        return diffused

    device = canvas.pixels.device
    drawn = ddim(
        keep,
        randn(tuple(canvas.pixels.shape), generator=generator, device=device),
        schedule=schedule_of(model.config, device),
        num_inference_steps=steps,
        eta=0.0,
    )
    painted: Tensor = model.to_pixels(drawn, enlarged).clamp(-1, 1)
    return canvas.keep(painted)
