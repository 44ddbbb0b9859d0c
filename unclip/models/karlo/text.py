"""The frozen text tower of CLIP (Radford et al. 2021), with which Karlo encodes captions."""

# B batch, L tokens of the captions, W width of the tower, E width of the CLIP embeddings

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from unclip.config import Config, ConfigError
from unclip.models.clip_text import ClipTextTower
from unclip.validation import check_divisible


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig(Config):
    """Sizes of the tower; that of ViT-L/14 has width 768, depth 12 and 12 heads."""

    tag: ClassVar[str] = "clip_text"
    vocab_size: int  # the last two tokens are the start and end tokens
    context_length: int
    width: int
    depth: int
    heads: int
    embed_dim: int

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        check_divisible("clip_text.width", self.width, self.heads)
        if self.vocab_size < 3 or self.context_length < 2 or self.depth < 1:
            raise ConfigError(
                f"clip_text.vocab_size={self.vocab_size}, context_length={self.context_length} and "
                f"depth={self.depth} must be at least 3, 2 and 1"
            )

    @property
    def start_token(self) -> int:
        """The first token of every caption."""
        return self.vocab_size - 2

    @property
    def end_token(self) -> int:
        """The last token of every caption; the text embedding is taken from its position."""
        return self.vocab_size - 1


class ClipTextEncoding(NamedTuple):
    """A batch of captions, encoded by CLIP."""

    hidden: Tensor  # (B, L, W) after the last norm
    visible: Tensor  # (B, L) bool: False where the caption is padded
    text_embeds: Tensor  # (B, E), not normalised


class ClipText(ClipTextTower):
    """CLIP's text tower with its projection to the text embedding."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__(config, quick_gelu=True, position_std=0.01)
        self.config = config
        self.project = nn.Linear(config.width, config.embed_dim, bias=False)
        self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> ClipTextEncoding:
        """tokens: (B, L) int64, from start token to end token, padded with 0."""
        if tokens.shape[1] > self.config.context_length:
            raise ConfigError(
                f"tokens have shape {tuple(tokens.shape)}, but CLIP's context_length="
                f"{self.config.context_length}; tokenize to at most that length"
            )
        hidden, visible = self.encode(tokens)
        rows = torch.arange(len(tokens), device=tokens.device)
        ends = tokens.eq(self.config.end_token).int().argmax(dim=1)  # (B,): of the first end token
        text_embeds = self.project(hidden[rows, ends])  # (B, E)
        return ClipTextEncoding(hidden, visible, text_embeds)

    def drop(self, tokens: Tensor, dropped: Tensor) -> Tensor:
        """Replace rows of tokens (B, L) by the empty caption where `dropped` (B,) is True."""
        if tokens.shape[1] < 2:
            tokens = nn.functional.pad(tokens, (0, 2 - tokens.shape[1]))
        empty = torch.zeros_like(tokens[:1])
        empty[:, 0], empty[:, 1] = self.config.start_token, self.config.end_token
        return torch.where(dropped[:, None], empty, tokens)
