"""Our models: the paper's, and those with Karlo's layout, which diffusers' models share."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from benchmarks.contest import VOCABULARY, Contestant, Inputs
from benchmarks.sizes import GUIDANCE_SCALE, STEPS, Sizes
from unclip.denoising.denoisers import decoder_denoiser, prior_denoiser, without_variance
from unclip.models import (
    Decoder,
    DecoderConfig,
    DiffusionPrior,
    DiffusionPriorConfig,
    KarloDecoder,
    KarloDecoderConfig,
    KarloPrior,
    KarloPriorConfig,
    TextEncoderConfig,
    UNetConfig,
    Upsampler,
    UpsamplerConfig,
)
from unclip.models.karlo import ClipTextConfig
from unclip.models.karlo.text import ClipTextEncoding
from unclip.models.text_encoder import visible_tokens, without_empty_columns

_Karlo = TypeVar("_Karlo", KarloPrior, KarloDecoder)
OWN, KARLO = "unclip", "unclip, Karlo's layout"


def prior(sizes: Sizes, inputs: Inputs) -> Contestant:
    """The diffusion prior; its transformer takes the token embeddings directly, as in the paper."""
    config = DiffusionPriorConfig(
        embed_dim=sizes.embed_dim,
        width=sizes.prior_width,
        depth=sizes.prior_depth,
        heads=sizes.prior_width // sizes.head_channels,
        text_encoder=_text_encoder(sizes),
        schedule="cosine",
        train_timesteps=STEPS,
        embedding_scale=sizes.embed_dim**0.5,
        text_dropout=0.1,
    )
    model = DiffusionPrior(config)

    def predict() -> Tensor:
        condition = model.condition(inputs.tokens, inputs.text_embeds, inputs.nothing)
        out: Tensor = model(inputs.image_embeds, inputs.timesteps, condition)
        return out

    def sampler() -> Callable[[], Tensor]:
        denoise = prior_denoiser(
            model, inputs.tokens, inputs.text_embeds, guidance_scale=GUIDANCE_SCALE
        )
        return lambda: denoise(inputs.image_embeds, inputs.timesteps)

    return Contestant(OWN, model, predict, sampler)


def karlo_prior(sizes: Sizes, inputs: Inputs) -> Contestant:
    """Our prior with the layers of diffusers' prior."""
    config = KarloPriorConfig(
        embed_dim=sizes.embed_dim,
        width=sizes.prior_width,
        depth=sizes.prior_depth,
        heads=sizes.prior_width // sizes.head_channels,
        text_encoder=_clip_text(sizes),
        schedule="cosine",
        train_timesteps=STEPS,
        x_start_limit=5.0,
        text_dropout=0.1,
    )
    model = _without_tower(KarloPrior(config), inputs)

    def predict() -> Tensor:
        condition = model.condition(inputs.tokens, None, inputs.nothing)
        out: Tensor = model(inputs.image_embeds, inputs.timesteps, condition)
        return out

    def sampler() -> Callable[[], Tensor]:
        denoise = prior_denoiser(
            model, inputs.tokens, inputs.text_embeds, guidance_scale=GUIDANCE_SCALE
        )
        return lambda: denoise(inputs.image_embeds, inputs.timesteps)

    return Contestant(KARLO, model, predict, sampler)


def decoder(sizes: Sizes, inputs: Inputs) -> Contestant:
    """The decoder with a learned variance; captions are only embedded (text encoder of depth 0)."""
    config = DecoderConfig(
        image_size=sizes.image_size,
        embed_dim=sizes.embed_dim,
        image_tokens=4,
        unet=_unet(sizes, sizes.channels, sizes.attention_resolutions),
        text_encoder=_text_encoder(sizes),
        schedule="cosine",
        train_timesteps=STEPS,
        prediction="epsilon",
        learned_variance=True,
        min_snr_gamma=None,
        image_dropout=0.1,
        text_dropout=0.5,
    )
    model = Decoder(config)

    def sampler() -> Callable[[], Tensor]:
        denoise = decoder_denoiser(
            model,
            inputs.image_embeds,
            inputs.tokens,
            guidance_scale=GUIDANCE_SCALE,
            dynamic_threshold=None,
        )
        predict = without_variance(denoise)
        return lambda: predict(inputs.pixels, inputs.timesteps)

    return Contestant(OWN, model, lambda: _decoded(model, inputs), sampler)


def karlo_decoder(sizes: Sizes, inputs: Inputs) -> Contestant:
    """Our decoder with the layers of diffusers' text projection and decoder."""
    config = KarloDecoderConfig(
        image_size=sizes.image_size,
        embed_dim=sizes.embed_dim,
        image_tokens=4,
        context_width=sizes.embed_dim,
        unet=_unet(sizes, sizes.channels, sizes.attention_resolutions),
        text_encoder=_clip_text(sizes),
        schedule="cosine",
        train_timesteps=STEPS,
        image_dropout=0.1,
        text_dropout=0.5,
    )
    model = _without_tower(KarloDecoder(config), inputs)

    def sampler() -> Callable[[], Tensor]:
        denoise = decoder_denoiser(
            model,
            inputs.image_embeds,
            inputs.tokens,
            guidance_scale=GUIDANCE_SCALE,
            dynamic_threshold=None,
        )
        predict = without_variance(denoise)
        return lambda: predict(inputs.pixels, inputs.timesteps)

    return Contestant(KARLO, model, lambda: _decoded(model, inputs), sampler)


def upsampler(sizes: Sizes, inputs: Inputs) -> Contestant:
    """The upsampler; its U-Net also has Karlo's layout."""
    config = UpsamplerConfig(
        image_size=sizes.large_size,
        low_res_size=sizes.large_size // 2,
        unet=_unet(sizes, sizes.upsampler_channels, ()),
        schedule="cosine",
        train_timesteps=STEPS,
        prediction="epsilon",
        min_snr_gamma=None,
        residual_scale=None,
        crop_fraction=sizes.image_size / sizes.large_size,
        degradation="gaussian_blur",
        degradation_probability=0.5,
        low_res_noise=None,
    )
    model = Upsampler(config)

    def predict() -> Tensor:
        out: Tensor = model(inputs.pixels, inputs.timesteps, inputs.low_res)
        return out

    def sample() -> Tensor:
        out: Tensor = model(inputs.large_pixels, inputs.timesteps[:1], inputs.large_low_res)
        return out

    return Contestant(OWN, model, predict, lambda: sample)


class _GivenText(nn.Module):
    """Replaces CLIP's frozen text tower: returns precomputed encodings of the captions."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs

    def drop(self, tokens: Tensor, dropped: Tensor) -> Tensor:
        """Return the tokens unchanged, because dropping captions would not change the shapes."""
        del dropped
        return tokens

    def forward(self, tokens: Tensor) -> ClipTextEncoding:
        """tokens: (B, L) int64, or (2B, L) with guidance."""
        copies = len(tokens) // len(self.inputs.tokens)
        tokens = without_empty_columns(tokens)
        return ClipTextEncoding(
            hidden=self.inputs.text_hidden[:, : tokens.shape[1]].repeat(copies, 1, 1),
            visible=visible_tokens(tokens),
            text_embeds=self.inputs.text_embeds.repeat(copies, 1),
        )


def _without_tower(model: _Karlo, inputs: Inputs) -> _Karlo:
    model.add_module("text_encoder", _GivenText(inputs))
    return model


def _decoded(model: Decoder | KarloDecoder, inputs: Inputs) -> Tensor:
    condition = model.condition(
        inputs.image_embeds, inputs.tokens, drop_image=inputs.nothing, drop_text=inputs.nothing
    )
    out: Tensor = model(inputs.pixels, inputs.timesteps, condition)
    return out


def _text_encoder(sizes: Sizes) -> TextEncoderConfig:
    return TextEncoderConfig(
        vocab_size=VOCABULARY,
        context_length=sizes.text_tokens,
        width=sizes.embed_dim,
        depth=0,
        heads=1,
    )


def _clip_text(sizes: Sizes) -> ClipTextConfig:
    """A text tower of the right widths; `_without_tower` replaces it."""
    return ClipTextConfig(
        vocab_size=VOCABULARY,
        context_length=sizes.text_tokens,
        width=sizes.embed_dim,
        depth=1,
        heads=1,
        embed_dim=sizes.embed_dim,
    )


def _unet(sizes: Sizes, channels: int, attention_resolutions: tuple[int, ...]) -> UNetConfig:
    return UNetConfig(
        channels=channels,
        channel_multipliers=sizes.channel_multipliers,
        residual_blocks=sizes.residual_blocks,
        attention_resolutions=attention_resolutions,
        head_channels=sizes.head_channels,
        norm_groups=32,
        dropout=0.0,
    )
