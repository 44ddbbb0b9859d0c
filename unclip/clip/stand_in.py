"""A network with the shapes of a trained CLIP, to estimate its training without open_clip.

open_clip takes seconds to import. This network has as many parameters, and its layers multiply the
same matrices.
"""

# B batch, S image side, L text tokens, N patches and the class token, D embedding width

import torch
from einops import rearrange
from torch import Tensor, nn

from unclip.clip.config import ClipArchitecture
from unclip.clip.training import contrastive_loss
from unclip.models.transformer import Transformer
from unclip.objectives.batch import Batch


class ClipStandIn(nn.Module):
    """Two transformers with projections, as in `open_clip.CLIP`."""

    def __init__(self, sizes: ClipArchitecture) -> None:
        super().__init__()
        width, text_width = sizes.vision_width, sizes.text_width
        patches = (sizes.image_size // sizes.patch_size) ** 2
        self.stem = nn.Conv2d(3, width, sizes.patch_size, stride=sizes.patch_size, bias=False)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(patches + 1, width))
        self.norm = nn.LayerNorm(width)
        self.vision = Transformer(width=width, depth=sizes.vision_layers, heads=sizes.vision_heads)
        self.from_image = nn.Linear(width, sizes.embed_dim, bias=False)
        self.embed = nn.Embedding(49408, text_width)  # the vocabulary of open_clip's tokenizer
        self.text_positions = nn.Parameter(torch.empty(sizes.text_context_length, text_width))
        self.text = Transformer(width=text_width, depth=sizes.text_layers, heads=sizes.text_heads)
        self.from_text = nn.Linear(text_width, sizes.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, S, S); (B, D)."""
        patches = rearrange(self.stem(pixels), "b c h w -> b (h w) c")
        first = self.class_token.expand(len(patches), 1, -1)
        hidden = self.norm(torch.cat([first, patches], dim=1) + self.positions)  # (B, N, ·)
        everything = hidden.new_ones(1, 1, 1, 1, dtype=torch.bool)
        embeds: Tensor = self.from_image(self.vision(hidden, everything).mean(1))
        return embeds

    def encode_text(self, tokens: Tensor) -> Tensor:
        """tokens: (B, L) int64; (B, D)."""
        length = tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        hidden = self.text(self.embed(tokens) + self.text_positions, causal)
        embeds: Tensor = self.from_text(hidden[:, -1])
        return embeds


def stand_in_loss(model: nn.Module, batch: Batch, _generator: torch.Generator) -> Tensor:
    """`clip_loss` without crops."""
    return contrastive_loss(model, batch["pixels"], batch["tokens"])
