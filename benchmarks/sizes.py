"""The sizes at which models are benchmarked, and settings that all contestants share."""

from dataclasses import dataclass, replace

GUIDANCE_SCALE = 4.0
STEPS = 1000  # train timesteps


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the three models and their inputs."""

    batch: int
    embed_dim: int  # of CLIP's embeddings and hidden states
    text_tokens: int  # length to which captions are padded
    prior_width: int
    prior_depth: int
    head_channels: int
    channels: int  # of the decoder's first level
    upsampler_channels: int  # of the upsampler's first level
    channel_multipliers: tuple[int, ...]
    residual_blocks: int
    image_size: int  # of the decoder, and of the crops that the upsampler trains on
    attention_resolutions: tuple[int, ...]
    large_size: int  # of the images that the upsampler samples, one at a time


CPU = Sizes(  # about a second per step on one core
    batch=2,
    embed_dim=512,
    text_tokens=77,
    prior_width=512,
    prior_depth=7,
    head_channels=64,
    channels=64,
    upsampler_channels=64,
    channel_multipliers=(1, 2, 3, 4),
    residual_blocks=2,
    image_size=64,
    attention_resolutions=(32, 16, 8),
    large_size=128,
)
TINY = Sizes(  # to check that everything runs
    batch=2,
    embed_dim=64,
    text_tokens=8,
    prior_width=64,
    prior_depth=2,
    head_channels=32,
    channels=32,
    upsampler_channels=32,
    channel_multipliers=(1, 2),
    residual_blocks=1,
    image_size=16,
    attention_resolutions=(8,),
    large_size=32,
)

SMALL = Sizes(  # the widths of the preset "small", fewer layers
    batch=16,
    embed_dim=512,
    text_tokens=77,
    prior_width=768,
    prior_depth=6,
    head_channels=64,
    channels=128,
    upsampler_channels=96,
    channel_multipliers=(1, 2, 3, 4),
    residual_blocks=1,
    image_size=64,
    attention_resolutions=(32, 16, 8),
    large_size=256,
)
PAPER = replace(  # the widths of the preset "paper", fewer layers
    SMALL,
    embed_dim=1024,
    text_tokens=256,
    prior_width=2048,
    channels=512,
    upsampler_channels=320,
)
