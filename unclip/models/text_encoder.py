"""The text encoder that is trained as part of a prior or a decoder."""

# B batch, L tokens of the captions, W width of the text encoder

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from unclip.config import Config, ConfigError
from unclip.models.transformer import Transformer
from unclip.validation import check_divisible


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(Config):
    """A transformer over CLIP's byte-pair tokens; at depth 0 they are embedded and normalised."""

    tag: ClassVar[str] = "text_encoder"

    vocab_size: int
    context_length: int
    width: int
    depth: int
    heads: int

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        check_divisible("text_encoder.width", self.width, self.heads)
        if min(self.vocab_size, self.context_length) < 1 or self.depth < 0:
            raise ConfigError(
                f"text_encoder.vocab_size={self.vocab_size}, context_length={self.context_length} "
                f"and depth={self.depth} must be at least 1, 1 and 0"
            )


class EncodedText(NamedTuple):
    """A batch of encoded captions."""

    hidden: Tensor  # (B, L, W); shared padding may be cut off, so L can be below that of the tokens
    visible: Tensor  # (B, L) bool: False where the caption is padded


def visible_tokens(tokens: Tensor) -> Tensor:
    """True up to the last token that is not 0: (B, L) int64 -> (B, L) bool.

    Only trailing zeros are padding, because 0 is also the token of "!". The first position is
    always visible, because attention without any visible token would be NaN.
    """
    nonzero_from_here = tokens.ne(0).int().flip(1).cumsum(1).flip(1)
    visible = nonzero_from_here > 0
    visible[:, 0] = True
    return visible


def without_empty_columns(tokens: Tensor) -> Tensor:
    """On a CPU, cut tokens (B, L) off after the longest caption.

    Nothing attends to padding, so the results do not change, and less is computed. On a GPU the cut
    would synchronise with the host, and each new shape would trigger a recompilation.
    """
    if tokens.device.type != "cpu":
        return tokens
    used = int(tokens.ne(0).any(0).nonzero().max()) + 1 if tokens.any() else 1
    return tokens[:, :used]


def drop_text(encoded: EncodedText, dropped: Tensor, null: Tensor) -> EncodedText:
    """Replace captions by a single token, null (W,), where `dropped` (B,) is True."""
    first = torch.zeros_like(encoded.visible[:1])  # (1, L)
    first[:, 0] = True
    hidden = torch.where(dropped[:, None, None], null, encoded.hidden)
    return EncodedText(hidden, torch.where(dropped[:, None], first, encoded.visible))


class TextEncoder(nn.Module):
    """A bidirectional transformer over a caption, with a learned null token to replace it."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.randn(config.context_length, config.width) * 0.02)
        self.null = nn.Parameter(torch.randn(config.width) * 0.02)
        self.transformer = Transformer(width=config.width, depth=config.depth, heads=config.heads)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens: Tensor) -> EncodedText:
        """tokens: (B, L) int64, padded with 0; L is at most the context length."""
        if tokens.shape[1] > self.config.context_length:
            raise ConfigError(
                f"tokens have shape {tuple(tokens.shape)}, but the text encoder's "
                f"context_length={self.config.context_length}; tokenize to at most that length"
            )
        tokens = without_empty_columns(tokens)
        visible = visible_tokens(tokens)  # (B, L)
        hidden = self.embed(tokens) + self.positions[: tokens.shape[1]]  # (B, L, W)
        return EncodedText(self.transformer(hidden, visible[:, None, None, :]), visible)

    def drop(self, encoded: EncodedText, dropped: Tensor) -> EncodedText:
        """Replace captions by the learned null token where `dropped` (B,) is True."""
        return drop_text(encoded, dropped, self.null)
