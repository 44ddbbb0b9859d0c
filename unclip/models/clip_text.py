"""CLIP's text tower (Radford et al. 2021), frozen, for every model that reads captions with it."""

# B batch, L tokens of the captions, W width of the tower

from typing import Protocol

import torch
from torch import Tensor, nn

from unclip.models.text_encoder import EncodedText, visible_tokens, without_empty_columns
from unclip.models.transformer import Transformer


class TowerSizes(Protocol):
    """What the configs of text towers share."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def heads(self) -> int: ...


class ClipTextTower(nn.Module):
    """A causal transformer over byte-pair tokens. Its parameters need no gradients."""

    def __init__(
        self, sizes: TowerSizes, *, quick_gelu: bool, position_std: float | None = None
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(sizes.vocab_size, sizes.width)
        self.positions = nn.Parameter(torch.zeros(sizes.context_length, sizes.width))
        if position_std is not None:
            nn.init.normal_(self.positions, std=position_std)
        self.transformer = Transformer(
            width=sizes.width, depth=sizes.depth, heads=sizes.heads, quick_gelu=quick_gelu
        )
        self.requires_grad_(False)

    def encode(self, tokens: Tensor) -> EncodedText:
        """tokens: (B, L) int64 from CLIP's tokenizer, padded with 0; L up to the context length."""
        tokens = without_empty_columns(tokens)
        length = tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        hidden = self.transformer(self.embed(tokens) + self.positions[:length], causal)
        return EncodedText(hidden, visible_tokens(tokens))  # (B, L, W)
