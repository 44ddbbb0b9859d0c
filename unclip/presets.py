"""Whole generators in three sizes; change one with `dataclasses.replace`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unclip.config import Config, ConfigError
from unclip.models import (
    ARPriorConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    TextEncoderConfig,
    UNetConfig,
    UpsamplerConfig,
)

CLIP_VOCAB_SIZE = 49_408


@dataclass(frozen=True, kw_only=True)
class Preset(Config):
    """The four models of a cascade, whose sizes fit together."""

    prior: DiffusionPriorConfig | ARPriorConfig
    decoder: DecoderConfig
    upsampler_1: UpsamplerConfig
    upsampler_2: UpsamplerConfig

    def __post_init__(self) -> None:
        """Refuse models that cannot feed each other."""
        check_fit(self.prior, self.decoder, (self.upsampler_1, self.upsampler_2))


def check_fit(
    prior: DiffusionPriorConfig | ARPriorConfig | KarloPriorConfig,
    decoder: DecoderConfig | KarloDecoderConfig,
    upsamplers: Sequence[UpsamplerConfig | KarloUpsamplerConfig],
) -> None:
    """Raise `ConfigError` where models of a cascade cannot feed each other."""
    if prior.embed_width != decoder.embed_width:
        raise ConfigError(
            f"prior.embed_width={prior.embed_width} and decoder.embed_width={decoder.embed_width} "
            "differ; give both the width of the CLIP"
        )
    sizes = [decoder.image_size, *(u.image_size for u in upsamplers[:-1])]
    wanted = [upsampler.low_res_size for upsampler in upsamplers]
    if sizes != wanted:
        raise ConfigError(
            f"the decoder and upsampler_1 make {sizes} pixels, but the upsamplers after them take "
            f"{wanted}; give each low_res_size the image_size before it"
            if len(sizes) > 1
            else f"the decoder makes {sizes[0]} pixels, but the upsampler after it takes "
            f"{wanted[0]}; give its low_res_size the decoder's image_size"
        )


def with_embed_width(preset: Preset, embed_width: int) -> Preset:
    """The preset for a CLIP of another width, embeddings scaled to the same variance as before."""
    prior = replace(preset.prior, embed_width=embed_width)
    if isinstance(prior, DiffusionPriorConfig):
        scale = prior.embedding_scale * (embed_width / preset.prior.embed_width) ** 0.5
        prior = replace(prior, embedding_scale=scale)
    return replace(
        preset,
        prior=prior,
        decoder=replace(preset.decoder, embed_width=embed_width),
    )


def tiny() -> Preset:
    """The demo, trained in minutes on two CPU cores: 16 -> 32 -> 64 pixels, a 64-d CLIP."""
    return Preset(
        prior=DiffusionPriorConfig(
            embed_width=64,
            width=192,
            depth=4,
            heads=3,
            text_encoder=_text_encoder(context_length=24, width=64, depth=1, heads=2),
            schedule="cosine",
            train_timesteps=1000,
            embedding_scale=8.0,
            text_dropout=0.1,
        ),
        decoder=DecoderConfig(
            image_size=16,
            embed_width=64,
            image_tokens=4,
            unet=_unet(32, (1, 2, 4), residual_blocks=1, attention=(4,), head_channels=32),
            text_encoder=_text_encoder(context_length=24, width=64, depth=1, heads=2),
            schedule="cosine",
            train_timesteps=1000,
            prediction="v",
            learned_variance=False,
            min_snr_gamma=None,
            image_dropout=0.1,
            text_dropout=0.5,
        ),
        upsampler_1=_tiny_upsampler(16, 32),
        upsampler_2=_tiny_upsampler(32, 64),
    )


def small() -> Preset:
    """One GPU, with a 512-d CLIP such as ViT-B/32: 64 -> 256 -> 1024 pixels."""
    return Preset(
        prior=DiffusionPriorConfig(
            embed_width=512,
            width=768,
            depth=12,
            heads=12,
            text_encoder=_text_encoder(context_length=77, width=512, depth=6, heads=8),
            schedule="cosine",
            train_timesteps=1000,
            embedding_scale=512**0.5,
            text_dropout=0.1,
        ),
        decoder=DecoderConfig(
            image_size=64,
            embed_width=512,
            image_tokens=4,
            unet=_unet(
                128,
                (1, 2, 3, 4),
                residual_blocks=2,
                attention=(32, 16, 8),
                head_channels=64,
                dropout=0.1,
            ),
            text_encoder=_text_encoder(context_length=77, width=512, depth=6, heads=8),
            schedule="cosine",
            train_timesteps=1000,
            prediction="v",
            learned_variance=True,
            min_snr_gamma=5.0,
            image_dropout=0.1,
            text_dropout=0.5,
        ),
        upsampler_1=UpsamplerConfig(
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
        upsampler_2=UpsamplerConfig(
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
    )


def paper() -> Preset:
    """Table 3 of the paper, with a 1024-d CLIP: 64 -> 256 -> 1024 pixels.

    The prior's transformer reads the caption's token embeddings itself (a text encoder of depth
    0), which is the reading of the table that gives its 1B parameters.
    """
    return Preset(
        prior=DiffusionPriorConfig(
            embed_width=1024,
            width=2048,
            depth=24,
            heads=32,
            text_encoder=_text_encoder(context_length=256, width=2048, depth=0, heads=32),
            schedule="cosine",
            train_timesteps=1000,
            embedding_scale=17.2,
            text_dropout=0.1,
        ),
        decoder=DecoderConfig(
            image_size=64,
            embed_width=1024,
            image_tokens=4,
            unet=_unet(
                512,
                (1, 2, 3, 4),
                residual_blocks=3,
                attention=(32, 16, 8),
                head_channels=64,
                dropout=0.1,
            ),
            text_encoder=_text_encoder(context_length=256, width=2048, depth=24, heads=32),
            schedule="cosine",
            train_timesteps=1000,
            prediction="epsilon",
            learned_variance=True,
            min_snr_gamma=None,
            image_dropout=0.1,
            text_dropout=0.5,
        ),
        upsampler_1=UpsamplerConfig(
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
        upsampler_2=UpsamplerConfig(
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


def _text_encoder(*, context_length: int, width: int, depth: int, heads: int) -> TextEncoderConfig:
    return TextEncoderConfig(
        vocab_size=CLIP_VOCAB_SIZE,
        context_length=context_length,
        width=width,
        depth=depth,
        heads=heads,
    )
