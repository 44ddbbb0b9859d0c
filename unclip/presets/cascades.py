"""Cascades in three sizes; change one with `dataclasses.replace`."""

from unclip.models import (
    DecoderConfig,
    DiffusionPriorConfig,
    TextEncoderConfig,
    UNetConfig,
    UpsamplerConfig,
)
from unclip.presets.preset import CLIP_VOCAB_SIZE, Preset


def tiny() -> Preset:
    """For the demo, which trains in minutes on two CPU cores: 16 -> 32 -> 64 pixels, 64-d CLIP."""
    return Preset(
        prior=DiffusionPriorConfig(
            embed_dim=64,
            width=192,
            depth=4,
            heads=3,
            text_encoder=text_encoder(context_length=24, width=64, depth=1, heads=2),
            schedule="cosine",
            train_timesteps=1000,
            embedding_scale=8.0,
            text_dropout=0.1,
        ),
        decoder=DecoderConfig(
            image_size=16,
            embed_dim=64,
            image_tokens=4,
            unet=_unet(32, (1, 2, 4), residual_blocks=1, attention=(4,), head_channels=32),
            text_encoder=text_encoder(context_length=24, width=64, depth=1, heads=2),
            schedule="cosine",
            train_timesteps=1000,
            prediction="v",
            learned_variance=False,
            min_snr_gamma=None,
            image_dropout=0.1,
            text_dropout=0.5,
        ),
        upsamplers={"upsampler_1": _tiny_upsampler(16, 32), "upsampler_2": _tiny_upsampler(32, 64)},
    )


def small() -> Preset:
    """For one GPU: 64 -> 256 -> 1024 pixels, with a 512-d CLIP such as ViT-B/32."""
    return Preset(
        prior=DiffusionPriorConfig(
            embed_dim=512,
            width=768,
            depth=12,
            heads=12,
            text_encoder=text_encoder(context_length=77, width=512, depth=6, heads=8),
            schedule="cosine",
            train_timesteps=1000,
            embedding_scale=512**0.5,
            text_dropout=0.1,
        ),
        decoder=DecoderConfig(
            image_size=64,
            embed_dim=512,
            image_tokens=4,
            unet=_unet(
                128,
                (1, 2, 3, 4),
                residual_blocks=2,
                attention=(32, 16, 8),
                head_channels=64,
                dropout=0.1,
            ),
            text_encoder=text_encoder(context_length=77, width=512, depth=6, heads=8),
            schedule="cosine",
            train_timesteps=1000,
            prediction="v",
            learned_variance=True,
            min_snr_gamma=5.0,
            image_dropout=0.1,
            text_dropout=0.5,
        ),
        upsamplers={
            "upsampler_1": UpsamplerConfig(
                image_size=256,
                low_res_size=64,
                unet=_unet(96, (1, 2, 3, 4), residual_blocks=2, dropout=0.1),
                schedule="cosine",
                train_timesteps=1000,
                prediction="v",
                min_snr_gamma=5.0,
                residual_scale=None,
                crop_fraction=0.25,
                degradation="gaussian_blur",
                degradation_probability=0.5,
                low_res_noise=None,
            ),
            "upsampler_2": UpsamplerConfig(
                image_size=1024,
                low_res_size=256,
                unet=_unet(64, (1, 1, 2, 2, 4, 4), residual_blocks=1),
                schedule="linear",
                train_timesteps=1000,
                prediction="v",
                min_snr_gamma=5.0,
                residual_scale=None,
                crop_fraction=0.25,
                degradation="bsr",
                degradation_probability=0.5,
                low_res_noise=None,
            ),
        },
    )


def paper() -> Preset:
    """Table 3 of the paper, with a 1024-d CLIP: 64 -> 256 -> 1024 pixels.

    The prior's transformer takes the caption's token embeddings directly (text encoder of depth 0).
    Under this reading of the table, the prior has the stated 1B parameters.
    """
    return Preset(
        prior=DiffusionPriorConfig(
            embed_dim=1024,
            width=2048,
            depth=24,
            heads=32,
            text_encoder=text_encoder(context_length=256, width=2048, depth=0, heads=32),
            schedule="cosine",
            train_timesteps=1000,
            embedding_scale=17.2,
            text_dropout=0.1,
        ),
        decoder=DecoderConfig(
            image_size=64,
            embed_dim=1024,
            image_tokens=4,
            unet=_unet(
                512,
                (1, 2, 3, 4),
                residual_blocks=3,
                attention=(32, 16, 8),
                head_channels=64,
                dropout=0.1,
            ),
            text_encoder=text_encoder(context_length=256, width=2048, depth=24, heads=32),
            schedule="cosine",
            train_timesteps=1000,
            prediction="epsilon",
            learned_variance=True,
            min_snr_gamma=None,
            image_dropout=0.1,
            text_dropout=0.5,
        ),
        upsamplers={
            "upsampler_1": UpsamplerConfig(
                image_size=256,
                low_res_size=64,
                unet=_unet(320, (1, 2, 3, 4), residual_blocks=3, dropout=0.1),
                schedule="cosine",
                train_timesteps=1000,
                prediction="epsilon",
                min_snr_gamma=None,
                residual_scale=None,
                crop_fraction=0.25,
                degradation="gaussian_blur",
                degradation_probability=0.5,
                low_res_noise=None,
            ),
            "upsampler_2": UpsamplerConfig(
                image_size=1024,
                low_res_size=256,
                unet=_unet(192, (1, 1, 2, 2, 4, 4), residual_blocks=2),
                schedule="linear",
                train_timesteps=1000,
                prediction="epsilon",
                min_snr_gamma=None,
                residual_scale=None,
                crop_fraction=0.25,
                degradation="bsr",
                degradation_probability=0.5,
                low_res_noise=None,
            ),
        },
    )


def _tiny_upsampler(low_res_size: int, image_size: int) -> UpsamplerConfig:
    return UpsamplerConfig(
        image_size=image_size,
        low_res_size=low_res_size,
        unet=_unet(24, (1, 2, 2), residual_blocks=1),
        schedule="cosine",
        train_timesteps=1000,
        prediction="v",
        min_snr_gamma=None,
        residual_scale=6.0,
        crop_fraction=0.5,
        degradation="gaussian_blur",
        degradation_probability=0.5,
        low_res_noise=None,
    )


def _unet(
    channels: int,
    channel_multipliers: tuple[int, ...],
    *,
    residual_blocks: int,
    attention: tuple[int, ...] = (),
    head_channels: int = 64,
    dropout: float = 0.0,
) -> UNetConfig:
    return UNetConfig(
        channels=channels,
        channel_multipliers=channel_multipliers,
        residual_blocks=residual_blocks,
        attention_resolutions=attention,
        head_channels=head_channels,
        norm_groups=32 if channels >= 64 else 8,
        dropout=dropout,
    )


def text_encoder(*, context_length: int, width: int, depth: int, heads: int) -> TextEncoderConfig:
    """A text encoder of these sizes, with CLIP's vocabulary."""
    return TextEncoderConfig(
        vocab_size=CLIP_VOCAB_SIZE,
        context_length=context_length,
        width=width,
        depth=depth,
        heads=heads,
    )
