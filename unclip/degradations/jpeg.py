"""JPEG compression artefacts for a batch of images, without writing files.

Only chroma subsampling and the quantisation of the DCT coefficients lose information. The lossless
entropy coding is omitted, so a whole batch runs on the GPU.
"""

# B batch, C channels, H height, W width, u and v frequencies, y and x pixels of an 8 x 8 block

import math
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

BLOCK = 8

# Annex K of the standard (ITU-T T.81): quantisation steps at quality 50.
LUMINANCE = """
16 11 10 16  24  40  51  61
12 12 14 19  26  58  60  55
14 13 16 24  40  57  69  56
14 17 22 29  51  87  80  62
18 22 37 56  68 109 103  77
24 35 55 64  81 104 113  92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103  99
"""
CHROMINANCE = """
17 18 24 47 99 99 99 99
18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
"""


def jpeg(pixels: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress; pixels: (B, 3, H, W) in [-1, 1]; quality: (B,) from 1 to 100.

    Baseline JPEG with the usual settings: 8 bits, chroma at half the resolution (4:2:0).
    """
    height, width = pixels.shape[-2:]
    bytes_ = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round()
    padding = (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK))
    planes = _to_ycbcr(F.pad(bytes_, padding, mode="replicate"))
    luminance = _quantise(planes[:, :1], _steps(LUMINANCE, quality))
    chroma = F.avg_pool2d(planes[:, 1:], 2).round()
    chroma = _quantise(chroma, _steps(CHROMINANCE, quality))
    chroma = F.interpolate(chroma, scale_factor=2.0, mode="bilinear")
    decoded = _to_rgb(torch.cat([luminance, chroma], dim=1))[..., :height, :width]
    return (decoded.round().clamp(0, 255) / 127.5 - 1).to(pixels.dtype)


def _to_ycbcr(rgb: Tensor) -> Tensor:
    """RGB to YCbCr (JFIF), both (B, 3, H, W) in [0, 255]; rounded."""
    red, green, blue = rgb.unbind(1)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    from_blue, from_red = (blue - luminance) / 1.772, (red - luminance) / 1.402
    return torch.stack([luminance, from_blue + 128, from_red + 128], dim=1).round()


def _to_rgb(planes: Tensor) -> Tensor:
    """The inverse of `_to_ycbcr`, not rounded."""
    luminance, from_blue, from_red = planes[:, 0], planes[:, 1] - 128, planes[:, 2] - 128
    red, blue = luminance + 1.402 * from_red, luminance + 1.772 * from_blue
    green = (luminance - 0.299 * red - 0.114 * blue) / 0.587
    return torch.stack([red, green, blue], dim=1)


def _quantise(planes: Tensor, steps: Tensor) -> Tensor:
    """Round the DCT coefficients of each block to multiples of the quantisation steps.

    planes: (B, C, H, W) in [0, 255]; steps: (B, 8, 8). Returns the decoded planes, (B, C, H, W).
    """
    cosines = _cosines().to(planes.device)  # (u, y)
    blocks = rearrange(planes - 128, "b c (h y) (w x) -> b c h w y x", y=BLOCK, x=BLOCK)
    steps = rearrange(steps, "b u v -> b 1 1 1 u v")
    coefficients = cosines @ blocks @ cosines.mT  # (B, C, H/8, W/8, u, v)
    blocks = cosines.mT @ ((coefficients / steps).round() * steps) @ cosines
    planes = rearrange(blocks, "b c h w y x -> b c (h y) (w x)")
    return (planes + 128).round().clamp(0, 255)


def _steps(table: str, quality: Tensor) -> Tensor:
    """The table scaled to each quality (B,), as libjpeg does; (B, 8, 8)."""
    at_50 = torch.tensor([float(number) for number in table.split()], device=quality.device)
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)  # (B,)
    steps = torch.outer(percent, at_50).add(50).div(100).floor().clamp(1, 255)
    return rearrange(steps, "b (u v) -> b u v", u=BLOCK)


@lru_cache(maxsize=1)
def _cosines() -> Tensor:
    """The matrix of the orthonormal 8-point DCT; (u, y)."""
    frequencies, positions = torch.arange(BLOCK)[:, None], torch.arange(BLOCK)[None]
    cosines = torch.cos((2 * positions + 1) * frequencies * math.pi / (2 * BLOCK)) / 2
    cosines[0] /= math.sqrt(2)
    return cosines
