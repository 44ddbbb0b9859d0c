"""What the low-resolution input of an upsampler goes through in training.

The generator before it does not make perfect images; corrupted inputs keep the upsampler from
relying on detail that will not be there (section 2.1 of the paper).
"""

# B batch, C channels, H height, W width

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.bsr import bsr
from unclip.config import ConfigError


def gaussian_kernel(kernel_size: int, sigma: float) -> Tensor:
    """Samples of a Gaussian that sum to 1; (kernel_size,)."""
    offsets = torch.arange(kernel_size, dtype=torch.float32) - (kernel_size - 1) / 2
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    return weights / weights.sum()


def gaussian_blur(pixels: Tensor, *, kernel_size: int = 3, sigma: float = 0.6) -> Tensor:
    """Blur (B, C, H, W) with a separable Gaussian; edges repeat their last pixel."""
    channels, reach = pixels.shape[1], kernel_size // 2
    kernel = gaussian_kernel(kernel_size, sigma).to(pixels)
    rows = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    columns = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, rows, groups=channels), columns, groups=channels)


def _gaussian_blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    del generator
    return gaussian_blur(pixels)


# From (B, C, H, W) in [-1, 1], with all chance in the generator, to the same shape.
DEGRADATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "gaussian_blur": _gaussian_blur,
    "bsr": bsr,
}


def check_degradation(name: str) -> None:
    """Raise `ConfigError` for a degradation that is not known."""
    if name not in DEGRADATIONS:
        known = ", ".join(DEGRADATIONS)
        raise ConfigError(f"degradation={name!r} is not known; choose one of {known}")


def degrade(pixels: Tensor, name: str, *, probability: float, generator: torch.Generator) -> Tensor:
    """Corrupt each image of (B, C, H, W) with the probability, independently."""
    draws = torch.rand(len(pixels), generator=generator, device=generator.device)
    chosen = (draws < probability).to(pixels.device)[:, None, None, None]
    return torch.where(chosen, DEGRADATIONS[name](pixels, generator), pixels)
