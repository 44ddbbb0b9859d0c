"""Karlo's networks at their smallest, and batches for them."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from tests.unclip.toys import UNET, make_batch, perturb, seeded
from unclip.config import Config
from unclip.kinds import build
from unclip.models import KarloDecoderConfig, KarloPriorConfig, KarloUpsamplerConfig
from unclip.models.karlo import ClipTextConfig

TEXT = ClipTextConfig(vocab_size=52, context_length=6, width=8, depth=1, heads=2, embed_dim=8)
PRIOR = KarloPriorConfig(
    embed_dim=8,
    width=16,
    depth=1,
    heads=2,
    text_encoder=TEXT,
    schedule="cosine",
    train_timesteps=100,
    x_start_limit=5.0,
    text_dropout=0.2,
)
DECODER = KarloDecoderConfig(
    image_size=8,
    embed_dim=8,
    image_tokens=2,
    context_width=12,
    unet=UNET,
    text_encoder=TEXT,
    schedule="cosine",
    train_timesteps=100,
    image_dropout=0.1,
    text_dropout=0.3,
)
UPSAMPLER = KarloUpsamplerConfig(
    image_size=16,
    low_res_size=8,
    unet=replace(UNET, attention_resolutions=()),
    schedule="cosine",
    train_timesteps=100,
)
CONFIGS = (PRIOR, DECODER, UPSAMPLER)


def karlo_batch(config: Config, *, count: int = 4) -> dict[str, Tensor]:
    """Captions of start, words and end; embeddings whose norms differ."""
    batch = make_batch(getattr(config, "image_size", 8), count=count)
    batch["tokens"][:, 0], batch["tokens"][:, 3] = TEXT.start_token, TEXT.end_token
    return batch | {"image_norm": 8 + 4 * torch.rand(count, generator=seeded(5))}


def karlo_model(config: Config) -> nn.Module:
    """With statistics that do something, where the model has them."""
    model = perturb(build(config)).train()
    if isinstance(config, KarloPriorConfig):
        model.mean.copy_(torch.randn(8, generator=seeded(6)))
        model.std.copy_(1 + torch.rand(8, generator=seeded(7)))
    return model
