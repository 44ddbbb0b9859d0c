"""What a pipeline returns: Pillow images."""

# B images, S side in pixels

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """The images that one call made."""

    images: list[Image.Image]  # RGB
    seed: int | None  # which makes the same images again; None if generators were given

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Image.Image]:
        return iter(self.images)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, S, S) in [-1, 1] as 8-bit RGB images; values outside are clamped."""
    array = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
    return [Image.fromarray(one.numpy()) for one in rearrange(array, "b c h w -> b h w c")]
