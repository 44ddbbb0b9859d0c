"""What all contestants have in common, and which sizes there are."""

from dataclasses import dataclass

GUIDANCE_SCALE = 4.0
STEPS = 1000  # of the diffusion that the models are trained for


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the three models and their inputs; decoder and upsampler have U-Nets of one size."""

    batch: int
    embed_width: int  # of CLIP's embeddings and hidden states
    text_tokens: int  # of a caption; none is padding, which only ours would skip
    prior_width: int
    prior_depth: int
    head_channels: int
    channels: int  # of the U-Nets' finest level
    channel_multipliers: tuple[int, ...]
    residual_blocks: int
    image_size: int  # of the decoder, and of the crops that the upsampler trains on
    attention_resolutions: tuple[int, ...]
    large_size: int  # of what the upsampler makes, one picture at a time


CPU = Sizes(  # about a second a step on one core
    batch=2,
    embed_width=512,
    text_tokens=77,
    prior_width=512,
    prior_depth=7,
    head_channels=64,
    channels=64,
    channel_multipliers=(1, 2, 3, 4),
    residual_blocks=2,
    image_size=64,
    attention_resolutions=(32, 16, 8),
    large_size=128,
)
TINY = Sizes(  # to see that everything runs
    batch=2,
    embed_width=64,
    text_tokens=8,
    prior_width=64,
    prior_depth=2,
    head_channels=32,
    channels=32,
    channel_multipliers=(1, 2),
    residual_blocks=1,
    image_size=16,
    attention_resolutions=(8,),
    large_size=32,
)
