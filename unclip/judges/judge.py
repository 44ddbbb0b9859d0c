"""A judge: a frozen network, the size of its input, and how pixels are scaled for it."""

# B images, S side of the network's input, D features

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip.images import to_rgb

log = logging.getLogger(__name__)

BATCH = 32  # images that go through a network at once


@dataclass(frozen=True)
class Judge:
    """Maps images to features."""

    network: Callable[[Tensor], Tensor]  # (B, 3, S, S) float32, scaled, to (B, D)
    image_size: int  # S
    mean: tuple[float, float, float]  # of the scaling (pixel - mean) / std, for pixels in [0, 255]
    std: tuple[float, float, float]
    device: torch.device

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Features of RGB images of any size, (B, D) float32 on the CPU."""
        parts = []
        for start in range(0, len(images), BATCH):
            batch = torch.stack([self.pixels(image) for image in images[start : start + BATCH]])
            batch = batch.to(self.device, memory_format=torch.channels_last)
            parts.append(self.network(batch).flatten(1).float().cpu())
        return torch.cat(parts) if parts else torch.empty(0, 0)

    def pixels(self, image: Image.Image) -> Tensor:
        """The network's input, (3, S, S)."""
        resized = resize(to_rgb(image), self.image_size)  # (3, S, S)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (resized - mean) / std


def resize(image: Image.Image, side: int) -> Tensor:
    """Resize as clean-fid does (Parmar et al. 2022, section 3): (3, S, S) float32 in [0, 255].

    Pillow's bicubic filter is applied to each channel in float32. It averages where it shrinks, and
    values are clipped but not rounded.
    """
    channels = [
        np.asarray(channel.convert("F").resize((side, side), Image.Resampling.BICUBIC))
        for channel in image.split()
    ]
    return torch.from_numpy(np.stack(channels).clip(0, 255))
