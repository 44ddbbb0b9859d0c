"""The networks: each is built from one frozen config and keeps it as `.config`."""

from collections.abc import Callable
from typing import Any

from torch import nn

from unclip.config import Config, ConfigError
from unclip.models.ar_prior import ARPrior, ARPriorConfig
from unclip.models.decoder import Decoder, DecoderConfig
from unclip.models.frozen_text import FrozenText, FrozenTextConfig
from unclip.models.karlo import (
    KarloDecoder,
    KarloDecoderConfig,
    KarloPrior,
    KarloPriorConfig,
    KarloUpsampler,
    KarloUpsamplerConfig,
)
from unclip.models.prior import DiffusionPrior, DiffusionPriorConfig
from unclip.models.text_encoder import TextEncoder, TextEncoderConfig
from unclip.models.unet import UNet, UNetConfig
from unclip.models.upsampler import Upsampler, UpsamplerConfig

MODELS: dict[type[Config], Callable[[Any], nn.Module]] = {
    DiffusionPriorConfig: DiffusionPrior,
    ARPriorConfig: ARPrior,
    DecoderConfig: Decoder,
    UpsamplerConfig: Upsampler,
    KarloPriorConfig: KarloPrior,
    KarloDecoderConfig: KarloDecoder,
    KarloUpsamplerConfig: KarloUpsampler,
}

AnyPrior = DiffusionPrior | ARPrior | KarloPrior
AnyDecoder = Decoder | KarloDecoder
AnyUpsampler = Upsampler | KarloUpsampler


def build(config: Config) -> nn.Module:
    """The untrained model that the config describes, on torch's current default device."""
    model = MODELS.get(type(config))
    if model is None:
        known = ", ".join(cls.__name__ for cls in MODELS)
        raise ConfigError(f"{type(config).__name__} describes no model; give one of {known}")
    return model(config)


__all__ = [
    "MODELS",
    "ARPrior",
    "ARPriorConfig",
    "AnyDecoder",
    "AnyPrior",
    "AnyUpsampler",
    "Decoder",
    "DecoderConfig",
    "DiffusionPrior",
    "DiffusionPriorConfig",
    "FrozenText",
    "FrozenTextConfig",
    "KarloDecoder",
    "KarloDecoderConfig",
    "KarloPrior",
    "KarloPriorConfig",
    "KarloUpsampler",
    "KarloUpsamplerConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "UNet",
    "UNetConfig",
    "Upsampler",
    "UpsamplerConfig",
    "build",
]
