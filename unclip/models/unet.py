"""The ADM U-Net (Dhariwal and Nichol 2021), with or without attention."""

# B batch, C channels, H height, W width, D width of the conditioning vector
# N context tokens, E their width

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.models.blocks import AttentionBlock, ResidualBlock
from unclip.models.group_norm import GroupNorm
from unclip.models.layers import TimestepEmbedding, zero_init
from unclip.validation import check_divisible, check_rate


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Config):
    """Sizes of a U-Net with one level per channel multiplier; each next level halves the size.

    With a patch size P above 1, the first level has 1/P of the image's height and width, and the
    pixels of a patch are its channels (Hoogeboom et al. 2023). A step then takes about the time of
    an image of 1/P of the size. Networks with large patches learn to predict x_0 sooner than
    noise or v (Li and He 2025).
    """

    tag: ClassVar[str] = "unet"

    channels: int
    channel_multipliers: tuple[int, ...]
    residual_blocks: int  # per level
    attention_resolutions: tuple[int, ...]  # sides of the feature maps with attention; () for none
    head_channels: int
    norm_groups: int
    dropout: float
    patch_size: int = 1  # side of a patch P, in pixels; 1 in the paper

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        check_divisible("unet.channels", self.channels, self.norm_groups)
        check_divisible("unet.channels", self.channels, 2)
        check_rate("unet.dropout", self.dropout)
        if self.patch_size < 1:
            raise ConfigError(f"unet.patch_size={self.patch_size} must be at least 1")
        if self.residual_blocks < 1 or not self.channel_multipliers:
            raise ConfigError(
                f"unet.residual_blocks={self.residual_blocks} and unet.channel_multipliers="
                f"{self.channel_multipliers}; give at least one block and one level"
            )

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the coarsest level, along a side."""
        return self.patch_size << (len(self.channel_multipliers) - 1)

    @property
    def condition_width(self) -> int:
        """Width D of the conditioning vector."""
        return 4 * self.channels

    def level_sizes(self, image_size: int) -> list[int]:
        """Side of the feature maps of each level, in their pixels."""
        levels = range(len(self.channel_multipliers))
        return [image_size // self.patch_size >> level for level in levels]

    def check_image_size(self, image_size: int) -> None:
        """Raise `ConfigError` if the levels cannot halve it or lack an attention resolution."""
        check_divisible("image_size", image_size, self.stride)
        sizes = self.level_sizes(image_size)
        unknown = [size for size in self.attention_resolutions if size not in sizes]
        if unknown:
            raise ConfigError(
                f"unet.attention_resolutions={self.attention_resolutions}: no level has "
                f"{unknown[0]} pixels at image_size={image_size}; the levels have {sizes}"
            )


class UNetBlock(nn.Module):
    """A residual block, followed by an optional attention block."""

    forward_methods: ClassVar[tuple[str, ...]] = ("project",)  # see `unclip.training.sharding`

    def __init__(self, residual: ResidualBlock, attention: AttentionBlock | None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def project(self, context: Tensor) -> Tensor | None:
        """Keys and values of a context (B, N, E), if the block has attention."""
        return None if self.attention is None else self.attention.project(context)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        context: Tensor | None,
        projected: Tensor | None,
        visible: Tensor | None,
    ) -> Tensor:
        """x: (B, C, H, W); condition: (B, D); context: (B, N, E); visible: (B, N).

        projected: from `project`, to skip that step.
        """
        x = self.residual(x, condition)
        if self.attention is None:
            return x
        if context is not None and projected is None:
            projected = self.attention.project(context)
        out: Tensor = self.attention(x, projected, visible)
        return out


class UNet(nn.Module):
    """A U-Net: levels down and up again, with a skip from each down block to an up block."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        image_size: int,
        in_channels: int,
        out_channels: int,
        context_width: int | None = None,
        scale_shift: bool = True,  # as in `ResidualBlock`
    ) -> None:
        super().__init__()
        config.check_image_size(image_size)
        self.config = config
        self.context_width = context_width
        self.scale_shift = scale_shift
        self.time = TimestepEmbedding(config.channels, config.condition_width)
        patch_pixels = config.patch_size**2
        self.stem = nn.Conv2d(in_channels * patch_pixels, config.channels, 3, padding=1)
        widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
        attends = [size in config.attention_resolutions for size in config.level_sizes(image_size)]
        self.down, skips = self._make_down(widths, attends)
        self.middle = nn.ModuleList(
            [
                self._block(widths[-1], widths[-1], attend=bool(config.attention_resolutions)),
                self._block(widths[-1], widths[-1], attend=False),
            ]
        )
        self.up = self._make_up(widths, attends, skips)
        self.norm = GroupNorm(config.norm_groups, config.channels)
        self.out = zero_init(nn.Conv2d(config.channels, out_channels * patch_pixels, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def _block(
        self, in_channels: int, out_channels: int, *, attend: bool, resample: str = ""
    ) -> UNetBlock:
        config = self.config
        residual = ResidualBlock(
            in_channels,
            out_channels,
            condition_width=config.condition_width,
            norm_groups=config.norm_groups,
            dropout=config.dropout,
            resample=resample,
            scale_shift=self.scale_shift,
        )
        if not attend:
            return UNetBlock(residual, None)
        attention = AttentionBlock(
            out_channels,
            head_channels=config.head_channels,
            norm_groups=config.norm_groups,
            context_width=self.context_width,
        )
        return UNetBlock(residual, attention)

    def _make_down(self, widths: list[int], attends: list[bool]) -> tuple[nn.ModuleList, list[int]]:
        """The down blocks, and the channels of each skip, starting with the stem's."""
        blocks, skips = nn.ModuleList(), [self.config.channels]
        for level, (width, attend) in enumerate(zip(widths, attends, strict=True)):
            for _ in range(self.config.residual_blocks):
                blocks.append(self._block(skips[-1], width, attend=attend))
                skips.append(width)
            if level < len(widths) - 1:
                blocks.append(self._block(width, width, attend=False, resample="down"))
                skips.append(width)
        return blocks, skips

    def _make_up(self, widths: list[int], attends: list[bool], skips: list[int]) -> nn.ModuleList:
        """The up blocks: one for each skip, last skip first, and one to upsample between levels."""
        blocks, channels, remaining = nn.ModuleList(), widths[-1], list(skips)
        for level in reversed(range(len(widths))):
            for _ in range(self.config.residual_blocks + 1):
                merged = channels + remaining.pop()
                blocks.append(self._block(merged, widths[level], attend=attends[level]))
                channels = widths[level]
            if level > 0:
                blocks.append(self._block(channels, channels, attend=False, resample="up"))
        return blocks

    def project_context(self, context: Tensor) -> tuple[Tensor | None, ...]:
        """Keys and values of a context (B, N, E) per block; equal at all timesteps."""
        return tuple(block.project(context) for block in (*self.down, *self.middle, *self.up))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        *,
        embedding: Tensor | None = None,
        context: Tensor | None = None,
        projected: Sequence[Tensor | None] = (),
        visible: Tensor | None = None,
    ) -> Tensor:
        """x: (B, C, H, W), H and W multiples of the stride; timesteps: (B,) int64.

        embedding: (B, D), added to the timestep's; context: (B, N, E) with visible: (B, N) bool.
        projected: from `project_context`, to skip that step. Returns (B, out_channels, H, W).
        """
        extra = iter(projected)  # of the blocks in order; in training they project the context
        condition = self.time(timesteps)  # (B, D)
        condition = F.silu(condition if embedding is None else condition + embedding)
        x = F.pixel_unshuffle(x, self.config.patch_size)
        h = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for block in self.down:
            h = block(h, condition, context, next(extra, None), visible)
            skips.append(h)
        for block in self.middle:
            h = block(h, condition, context, next(extra, None), visible)
        for block in self.up:
            assert isinstance(block, UNetBlock)
            if block.residual.resample != "up":
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, condition, context, next(extra, None), visible)
        out: Tensor = self.out(F.silu(self.norm(h)))
        return F.pixel_shuffle(out, self.config.patch_size)  # (B, C, H, W)
