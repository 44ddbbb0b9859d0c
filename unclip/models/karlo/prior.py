"""Karlo's diffusion prior: from a caption to the standardised CLIP image embedding."""

# B batch, L tokens of the captions, E width of CLIP's embeddings, D transformer width

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.diffusion import check_schedule
from unclip.models.karlo.text import ClipText, ClipTextConfig
from unclip.models.layers import TimestepEmbedding
from unclip.models.prior import PriorCondition, SequencePrior
from unclip.models.transformer import Transformer
from unclip.validation import check_divisible, check_rate


@dataclass(frozen=True, kw_only=True)
class KarloPriorConfig(Config):
    """A causal transformer that predicts the standardised image embedding x_0."""

    tag: ClassVar[str] = "karlo_prior"
    unit_norm: ClassVar[bool] = False  # it predicts image embeddings with CLIP's own norm

    embed_dim: int
    width: int
    depth: int
    heads: int
    text_encoder: ClipTextConfig
    schedule: str
    train_timesteps: int
    x_start_limit: float  # x_0 is clamped to [-limit, limit] while sampling
    text_dropout: float

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_divisible("karlo_prior.width", self.width, self.heads)
        check_divisible("karlo_prior.width", self.width, 2)
        check_rate("karlo_prior.text_dropout", self.text_dropout)
        check_schedule(self.schedule, self.train_timesteps)
        check_clip_widths("karlo_prior", self.embed_dim, self.text_encoder)


def check_clip_widths(where: str, embed_dim: int, text: ClipTextConfig) -> None:
    """Raise `ConfigError` unless CLIP's hidden states and embeddings have width embed_dim.

    In this architecture, the layers that project them have this input width.
    """
    if {text.width, text.embed_dim} != {embed_dim}:
        raise ConfigError(
            f"{where}.embed_dim={embed_dim}, but text_encoder.width={text.width} and "
            f"text_encoder.embed_dim={text.embed_dim}; all three must be the same"
        )


class KarloPrior(SequencePrior):
    """Encodes captions with CLIP's text tower, and predicts the standardised z_i."""

    mean: Tensor  # (E,)
    std: Tensor  # (E,)

    def __init__(self, config: KarloPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = ClipText(config.text_encoder)
        self.from_hidden = nn.Linear(config.embed_dim, config.width)
        self.from_text_embeds = nn.Linear(config.embed_dim, config.width)
        self.time = TimestepEmbedding(config.width, config.width)
        self.from_image_embeds = nn.Linear(config.embed_dim, config.width)
        self.query = nn.Parameter(torch.randn(config.width) * 0.02)
        tokens = config.text_encoder.context_length + 4
        self.positions = nn.Parameter(torch.randn(tokens, config.width) * 0.02)
        self.transformer = Transformer(width=config.width, depth=config.depth, heads=config.heads)
        self.to_image_embeds = nn.Linear(config.width, config.embed_dim)
        self.register_buffer("mean", torch.zeros(config.embed_dim))
        self.register_buffer("std", torch.ones(config.embed_dim))

    def condition(
        self, tokens: Tensor, text_embeds: Tensor | None, dropped: Tensor
    ) -> PriorCondition:
        """Encode captions; tokens: (B, L) int64; dropped: (B,) bool, True for the empty caption.

        text_embeds is ignored: the prior uses its text tower's own embedding, not normalised.
        """
        del text_embeds
        text = self.text_encoder(self.text_encoder.drop(tokens, dropped))
        z_t = self.from_text_embeds(text.text_embeds)  # (B, D)
        hidden = torch.cat([self.from_hidden(text.hidden), z_t[:, None]], dim=1)
        return PriorCondition(hidden, F.pad(text.visible, (0, 1), value=True))

    def standardise(self, image_embeds: Tensor) -> Tensor:
        """Convert CLIP's image embeddings (B, E), not normalised, to x_0."""
        return (image_embeds - self.mean) / self.std

    def to_image_space(self, standardised: Tensor) -> Tensor:
        """Convert x_0 (B, E) to image embeddings; the inverse of `standardise`."""
        return standardised * self.std + self.mean
