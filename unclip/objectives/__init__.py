"""Training objectives: from a model and a batch to a scalar loss, with all chance in a generator.

A batch maps names to tensors: "pixels" (B, 3, S, S) in [-1, 1] at the model's image_size,
"image_embeds" and "text_embeds" (B, E) unit-norm, "image_norm" (B,) what the image embeddings were
divided by for that, "tokens" (B, L) int64 padded with 0.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unclip.config import Config, ConfigError
from unclip.models import (
    ARPriorConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    UpsamplerConfig,
)
from unclip.objectives.karlo import karlo_decoder_loss, karlo_prior_loss, karlo_upsampler_loss
from unclip.objectives.losses import Batch
from unclip.objectives.paper import ar_prior_loss, decoder_loss, prior_loss, upsampler_loss

OBJECTIVES: dict[type[Config], Callable[[Any, Batch, torch.Generator], Tensor]] = {
    DiffusionPriorConfig: prior_loss,
    ARPriorConfig: ar_prior_loss,
    DecoderConfig: decoder_loss,
    UpsamplerConfig: upsampler_loss,
    KarloPriorConfig: karlo_prior_loss,
    KarloDecoderConfig: karlo_decoder_loss,
    KarloUpsamplerConfig: karlo_upsampler_loss,
}


def training_loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """The loss of any model that `build` makes."""
    objective = OBJECTIVES.get(type(getattr(model, "config", None)))  # type: ignore[arg-type]
    if objective is None:
        raise ConfigError(f"{type(model).__name__} has no objective; give a model made by `build`")
    return objective(model, batch, generator)


__all__ = [
    "OBJECTIVES",
    "Batch",
    "ar_prior_loss",
    "decoder_loss",
    "karlo_decoder_loss",
    "karlo_prior_loss",
    "karlo_upsampler_loss",
    "prior_loss",
    "training_loss",
    "upsampler_loss",
]
