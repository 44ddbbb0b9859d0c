"""The networks. Each is built from a frozen config, which it keeps as `.config`."""

from unclip.models.ar_prior import ARPrior, ARPriorConfig
from unclip.models.decoder import Decoder, DecoderConfig
from unclip.models.eclipse_prior import EclipsePrior, EclipsePriorConfig
from unclip.models.frozen_text import FrozenText, FrozenTextConfig
from unclip.models.karlo import (
    KarloDecoder,
    KarloDecoderConfig,
    KarloPrior,
    KarloPriorConfig,
    KarloUpsampler,
    KarloUpsamplerConfig,
)
from unclip.models.linear_prior import LinearPrior, LinearPriorConfig
from unclip.models.prior import DiffusionPrior, DiffusionPriorConfig
from unclip.models.text_encoder import TextEncoder, TextEncoderConfig
from unclip.models.unet import UNet, UNetConfig
from unclip.models.upsampler import Upsampler, UpsamplerConfig

__all__ = [
    "ARPrior",
    "ARPriorConfig",
    "Decoder",
    "DecoderConfig",
    "DiffusionPrior",
    "DiffusionPriorConfig",
    "EclipsePrior",
    "EclipsePriorConfig",
    "FrozenText",
    "FrozenTextConfig",
    "KarloDecoder",
    "KarloDecoderConfig",
    "KarloPrior",
    "KarloPriorConfig",
    "KarloUpsampler",
    "KarloUpsamplerConfig",
    "LinearPrior",
    "LinearPriorConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "UNet",
    "UNetConfig",
    "Upsampler",
    "UpsamplerConfig",
]
