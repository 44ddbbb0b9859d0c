"""Gaussian blur, the degradation of the first upsampler's input (section 2.1 of the paper)."""

# B batch, C channels, H height, W width

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_kernel(kernel_size: int, sigma: float) -> Tensor:
    """A 1-D Gaussian kernel that sums to 1; sigma in pixels; (kernel_size,)."""
    offsets = torch.arange(kernel_size, dtype=torch.float32) - (kernel_size - 1) / 2
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    return weights / weights.sum()


def gaussian_blur(pixels: Tensor, *, kernel_size: int = 3, sigma: float = 0.6) -> Tensor:
    """Blur (B, C, H, W) with a separable Gaussian; the border is replicate-padded."""
    channels, reach = pixels.shape[1], kernel_size // 2
    kernel = gaussian_kernel(kernel_size, sigma).to(pixels)
    rows = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    columns = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, rows, groups=channels), columns, groups=channels)
