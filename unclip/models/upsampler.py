"""The upsampler: a diffusion model from a small image to a larger one, without a caption."""

# B batch, S image size, s low-resolution size, D width of the U-Net's conditioning vector

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.degradations import check_degradation
from unclip.diffusion import check_prediction, check_schedule
from unclip.models.layers import TimestepEmbedding
from unclip.models.unet import UNet, UNetConfig
from unclip.validation import check_divisible, check_rate, check_shape


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig(Config):
    """A convolutional U-Net over the noisy image and the enlarged low-resolution image."""

    tag: ClassVar[str] = "upsampler"

    image_size: int
    low_res_size: int
    unet: UNetConfig
    schedule: str
    train_timesteps: int
    prediction: str  # "epsilon", "v" or "x_0"
    min_snr_gamma: float | None  # cap on the SNR in min-SNR loss weights; None: no weighting
    # 1 / std of the difference gives x_0 unit variance.
    residual_scale: float | None  # x_0 = (image - enlarged) * scale; None: x_0 is the image
    crop_fraction: float  # side of the training crops over image_size; 0.25 in the paper
    degradation: str  # of the input during training: "gaussian_blur" or "bsr"
    degradation_probability: float
    low_res_noise: float | None  # largest std of noise on the input; the network is given the std

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_divisible("upsampler.image_size", self.image_size, self.low_res_size)
        check_rate("upsampler.degradation_probability", self.degradation_probability)
        check_degradation(self.degradation)
        if self.low_res_noise is not None and self.low_res_noise <= 0:
            raise ConfigError(
                f"upsampler.low_res_noise={self.low_res_noise} must be positive; give null for none"
            )
        check_schedule(self.schedule, self.train_timesteps)
        check_prediction(self.prediction)
        if self.residual_scale is not None and self.residual_scale <= 0:
            raise ConfigError(
                f"upsampler.residual_scale={self.residual_scale} must be positive; give "
                "null to noise the image itself"
            )
        if self.unet.attention_resolutions:
            raise ConfigError(
                f"upsampler.unet.attention_resolutions={self.unet.attention_resolutions}: an "
                "upsampler trains on crops and runs at full size, so it has no attention; give ()"
            )
        check_divisible("upsampler.image_size", self.image_size, self.unet.stride)
        self._check_crop()

    def _check_crop(self) -> None:
        crop = self.crop_size
        if not 0 < crop <= self.image_size or crop % self.unet.stride or crop % self.scale:
            raise ConfigError(
                f"upsampler.crop_fraction={self.crop_fraction} makes crops of {crop} pixels, which "
                f"must be a multiple of the U-Net's stride {self.unet.stride} and of the scale "
                f"{self.scale}, at most {self.image_size}; try 0.5 or 1.0"
            )

    @property
    def scale(self) -> int:
        """The ratio of output size to input size."""
        return self.image_size // self.low_res_size

    @property
    def crop_size(self) -> int:
        """Side of the training crops, in pixels of the output."""
        return round(self.image_size * self.crop_fraction)


class Upsampler(nn.Module):
    """A U-Net over the noisy image and the bicubically enlarged low-resolution image."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config.unet, image_size=config.image_size, in_channels=6, out_channels=3)
        self.noise_level = (
            None
            if config.low_res_noise is None
            else TimestepEmbedding(config.unet.channels, config.unet.condition_width)
        )

    def condition(self, low_res: Tensor) -> Tensor:
        """Enlarge low_res (B, 3, s, s) in [-1, 1] to (B, 3, S, S), once for all steps.

        Height and width may differ; S must be a multiple of the U-Net's stride.
        """
        check_shape("low_res", low_res, ("B", 3, "h", "w"), "give images in RGB, channels first")
        for side in low_res.shape[2:]:
            check_divisible("side of the output", side * self.config.scale, self.config.unet.stride)
        enlarged = F.interpolate(low_res, scale_factor=float(self.config.scale), mode="bicubic")
        return enlarged.clamp(-1, 1)

    def to_diffused(self, pixels: Tensor, enlarged: Tensor) -> Tensor:
        """Convert pixels (B, 3, S, S) in [-1, 1] to x_0; the inverse of `to_pixels`."""
        scale = self.config.residual_scale
        return pixels if scale is None else (pixels - enlarged) * scale

    def to_pixels(self, diffused: Tensor, enlarged: Tensor) -> Tensor:
        """Convert x_0 (B, 3, S, S) to pixels; not clamped."""
        scale = self.config.residual_scale
        return diffused if scale is None else enlarged + diffused / scale

    def forward(
        self, x: Tensor, timesteps: Tensor, enlarged: Tensor, noise_std: Tensor | None = None
    ) -> Tensor:
        """The prediction for x: (B, 3, S, S) at timesteps: (B,) int64; (B, 3, S, S).

        enlarged: (B, 3, S, S) from `condition`. S is any multiple of the U-Net's stride.
        noise_std: (B,), of the noise on the low-resolution input; None: no noise.
        """
        embedding = None
        if self.noise_level is not None:
            noise_std = torch.zeros(len(x), device=x.device) if noise_std is None else noise_std
            embedding = self.noise_level(1000 * noise_std)  # (B, D); in the range of timesteps
        out: Tensor = self.unet(torch.cat([x, enlarged], dim=1), timesteps, embedding=embedding)
        return out
