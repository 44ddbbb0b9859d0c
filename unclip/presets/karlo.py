"""Karlo, a public unCLIP: the configs of its published weights."""

from unclip.models import (
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    UNetConfig,
)
from unclip.models.karlo import ClipTextConfig
from unclip.presets.preset import CLIP_VOCAB_SIZE, Preset


def karlo() -> Preset:
    """Karlo v1.0 alpha: 64 -> 256 pixels, with the text tower of CLIP ViT-L/14."""
    text = ClipTextConfig(
        vocab_size=CLIP_VOCAB_SIZE,
        context_length=77,
        width=768,
        depth=12,
        heads=12,
        embed_dim=768,
    )
    return Preset(
        prior=KarloPriorConfig(
            embed_dim=768,
            width=2048,
            depth=20,
            heads=32,
            text_encoder=text,
            schedule="cosine",
            train_timesteps=1000,
            x_start_limit=10.0,  # as in Karlo's code; diffusers folders have 5, which import uses
            text_dropout=0.2,
        ),
        decoder=KarloDecoderConfig(
            image_size=64,
            embed_dim=768,
            image_tokens=4,
            context_width=1536,
            unet=_unet(attention=(32, 16, 8), head_channels=64),
            text_encoder=text,
            schedule="cosine",
            train_timesteps=1000,
            image_dropout=0.1,
            text_dropout=0.3,
        ),
        upsamplers={
            "upsampler_1": KarloUpsamplerConfig(  # two networks
                image_size=256,
                low_res_size=64,
                unet=_unet(attention=(), head_channels=8),  # no layer attends; 8 as in Karlo's file
                schedule="cosine",
                train_timesteps=1000,
            ),
        },
    )


def _unet(*, attention: tuple[int, ...], head_channels: int) -> UNetConfig:
    return UNetConfig(
        channels=320,
        channel_multipliers=(1, 2, 3, 4),
        residual_blocks=3,
        attention_resolutions=attention,
        head_channels=head_channels,
        norm_groups=32,
        dropout=0.0,
    )
