"""Conversion of U-Net settings between diffusers and our `UNetConfig`."""

from collections.abc import Callable
from typing import Any, TypeVar

from unclip.config import Config, ConfigError
from unclip.interop.errors import InteropError
from unclip.interop.settings import Settings
from unclip.models import UNetConfig

Json = dict[str, Any]
_Config = TypeVar("_Config", bound=Config)

PLAIN = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
ATTENDING = ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D")

UNET = {
    "center_input_sample": False,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "num_class_embeds": None,
}
DECODER = UNET | {
    "resnet_time_scale_shift": "scale_shift",
    "in_channels": 3,
    "out_channels": 6,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "class_embed_type": "identity",
    "only_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
}
UPSAMPLER = UNET | {
    "resnet_time_scale_shift": "default",
    "in_channels": 6,
    "out_channels": 3,
    "mid_block_type": "UNetMidBlock2D",
    "class_embed_type": None,
    "add_attention": False,
}
# The defaults of diffusers for settings that older files lack.
LEFT_OUT = {
    "resnet_time_scale_shift": "default",
    "mid_block_type": "UNetMidBlock2D",
    "class_embed_type": None,
    "add_attention": True,
}
# Settings that affect only training, or blocks that Karlo does not have.
UNET_IGNORED = (
    "downsample_padding",
    "downsample_type",
    "upsample_type",
    "transformer_layers_per_block",
    "addition_embed_type_num_heads",
    "upcast_attention",
)


def built(where: str, make: Callable[[], _Config]) -> _Config:
    """The config from `make`; a `ConfigError` is raised as an `InteropError` with the file name."""
    try:
        return make()
    except ConfigError as error:
        raise InteropError(f"{where}: {error}") from error


def read_unet(
    settings: Settings, fixed: Json, image_size: int, attending: tuple[str, str]
) -> UNetConfig:
    """Read a U-Net.

    fixed: settings that have only one supported value; attending: block types (down, up) of levels
    with attention. All other levels must be `PLAIN`.
    """
    widths = settings.integers("block_out_channels")
    down, up = settings.words("down_block_types"), settings.words("up_block_types")
    attends = [name == attending[0] and name != PLAIN[0] for name in down]
    if (down, up) != _block_types(attends, attending) or len(down) != len(widths):
        raise InteropError(
            f"{settings.where}: block_out_channels={list(widths)}, down_block_types={list(down)} "
            f"and up_block_types={list(up)} do not mirror each other, or are not of the types "
            f"{', '.join(dict.fromkeys((*PLAIN, *attending)))}"
        )
    if any(width % widths[0] for width in widths):
        raise InteropError(
            f"{settings.where}: block_out_channels={list(widths)} are not multiples of the first"
        )
    settings.expect(fixed, stated=tuple(k for k, v in LEFT_OUT.items() if fixed.get(k, v) != v))
    settings.ignore(*UNET_IGNORED)
    return built(
        settings.where,
        lambda: UNetConfig(
            channels=widths[0],
            channel_multipliers=tuple(width // widths[0] for width in widths),
            residual_blocks=settings.integer("layers_per_block", default=2),
            attention_resolutions=tuple(
                image_size >> level for level, attend in enumerate(attends) if attend
            ),
            head_channels=settings.integer("attention_head_dim", default=8),
            norm_groups=settings.integer("norm_num_groups", default=32),
            dropout=settings.number("dropout", default=0.0),
        ),
    )


def write_unet(config: UNetConfig, image_size: int, attending: tuple[str, str]) -> Json:
    """The inverse of `read_unet`, without the fixed settings."""
    if config.patch_size != 1:
        raise InteropError(
            f"unet.patch_size={config.patch_size}, but the U-Nets of diffusers have no patches; "
            "train with unet.patch_size=1, or export in the unclip format"
        )
    attends = [size in config.attention_resolutions for size in config.level_sizes(image_size)]
    down, up = _block_types(attends, attending)
    return {
        "sample_size": image_size,
        "block_out_channels": [config.channels * by for by in config.channel_multipliers],
        "down_block_types": list(down),
        "up_block_types": list(up),
        "layers_per_block": config.residual_blocks,
        "attention_head_dim": config.head_channels,
        "norm_num_groups": config.norm_groups,
        "dropout": config.dropout,
    }


def _block_types(
    attends: list[bool], attending: tuple[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    down = tuple(attending[0] if attend else PLAIN[0] for attend in attends)
    up = tuple(attending[1] if attend else PLAIN[1] for attend in reversed(attends))
    return down, up
