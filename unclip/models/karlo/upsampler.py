"""Karlo's upsampler, with a second network for the last step."""

# B batch, S image size, s low-resolution size

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.diffusion import check_schedule
from unclip.models.unet import UNet, UNetConfig
from unclip.validation import check_divisible, check_shape


@dataclass(frozen=True, kw_only=True)
class KarloUpsamplerConfig(Config):
    """Two convolutional U-Nets of equal sizes, over the noisy and the enlarged image."""

    tag: ClassVar[str] = "karlo_upsampler"

    prediction: ClassVar[str] = "epsilon"

    image_size: int
    low_res_size: int
    unet: UNetConfig
    schedule: str
    train_timesteps: int

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_divisible("karlo_upsampler.image_size", self.image_size, self.low_res_size)
        self.unet.check_image_size(self.image_size)
        check_schedule(self.schedule, self.train_timesteps)
        if self.unet.attention_resolutions:
            raise ConfigError(
                f"karlo_upsampler.unet.attention_resolutions={self.unet.attention_resolutions}: "
                "this upsampler has no attention; give ()"
            )

    @property
    def scale(self) -> int:
        """The ratio of output size to input size."""
        return self.image_size // self.low_res_size


class KarloUpsampler(nn.Module):
    """Predicts the noise ε from the noisy image and the enlarged low-resolution image."""

    def __init__(self, config: KarloUpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.unet, self.last_unet = (
            UNet(
                config.unet,
                image_size=config.image_size,
                in_channels=6,
                out_channels=3,
                scale_shift=False,  # as in the published weights
            )
            for _ in range(2)
        )

    def condition(self, low_res: Tensor) -> Tensor:
        """Enlarge low_res (B, 3, s, s) in [-1, 1] to (B, 3, S, S), once for all steps.

        Height and width may differ; S must be a multiple of the U-Net's stride.
        """
        check_shape("low_res", low_res, ("B", 3, "h", "w"), "give images in RGB, channels first")
        size = [side * self.config.scale for side in low_res.shape[2:]]
        for side in size:
            check_divisible("side of the output", side, self.config.unet.stride)
        # antialias=True selects a different cubic kernel, which Karlo was trained with.
        return F.interpolate(low_res, size=size, mode="bicubic", antialias=True)

    def to_diffused(self, pixels: Tensor, enlarged: Tensor) -> Tensor:
        """The identity: x_0 is the image itself, (B, 3, S, S) in [-1, 1]."""
        del enlarged
        return pixels

    to_pixels = to_diffused  # the identity too

    def forward(self, x: Tensor, timesteps: Tensor, enlarged: Tensor) -> Tensor:
        """ε for x: (B, 3, S, S) at timesteps: (B,) int64, in all steps but the last."""
        out: Tensor = self.unet(torch.cat([x, enlarged], dim=1), timesteps)
        return out

    def forward_last(self, x: Tensor, timesteps: Tensor, enlarged: Tensor) -> Tensor:
        """As `forward`, with the network of the last step."""
        out: Tensor = self.last_unet(torch.cat([x, enlarged], dim=1), timesteps)
        return out
