"""A pre-norm transformer over token sequences."""

# B batch, N tokens, M tokens that they attend to, D width, h heads

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.models.layers import attend
from unclip.validation import check_divisible


class KeyValueCache:
    """Keys and values of one attention layer, with room for a fixed number of tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # tokens
        self.length = 0
        self._kept: Tensor | None = None  # (2, B, h, capacity, D/h)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append N tokens, each (B, h, N, D/h); returns all tokens so far, (B, h, M, D/h)."""
        if self._kept is None:
            self._kept = k.new_empty(2, *k.shape[:2], self.capacity, k.shape[3])
        start, self.length = self.length, self.length + k.shape[2]
        self._kept[:, :, :, start : self.length] = torch.stack([k, v])
        keys, values = self._kept[:, :, :, : self.length].unbind(0)
        return keys, values

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = length


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_divisible("width", width, heads)
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, mask: Tensor, cache: KeyValueCache | None = None, *, keep: int | None
    ) -> Tensor:
        """x: (B, N, D); mask: True where a query attends to a key, broadcastable to (B, h, N, M).

        With a cache, x holds the tokens after the cached ones and attends to both. keep: only the
        last `keep` tokens are queries; None: all. Returns (B, keep, D).
        """
        q, k, v = self._project(x, keep)
        if cache is not None:
            k, v = cache.extend(k, v)
        attended = attend(q, k, v, mask)  # (B, h, N, D/h)
        out: Tensor = self.to_out(rearrange(attended, "b h n d -> b n (h d)"))
        return out

    def _project(self, x: Tensor, keep: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the last `keep` tokens, keys and values of all; each (B, h, N, D/h)."""
        if keep is None:
            qkv = rearrange(
                self.to_qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads
            )
            q, k, v = qkv.unbind(0)
            return q, k, v
        weight, bias, width = self.to_qkv.weight, self.to_qkv.bias, x.shape[2]
        q = F.linear(x[:, -keep:], weight[:width], bias[:width])
        kv = F.linear(x, weight[width:], bias[width:])
        k, v = rearrange(kv, "b n (two h d) -> two b h n d", two=2, h=self.heads).unbind(0)
        return rearrange(q, "b n (h d) -> b h n d", h=self.heads), k, v


class QuickGelu(nn.Module):
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A pre-norm block: attention, and an MLP with hidden width 4 D."""

    def __init__(self, width: int, heads: int, *, quick_gelu: bool = False) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            QuickGelu() if quick_gelu else nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        cache: KeyValueCache | None = None,
        *,
        keep: int | None = None,
    ) -> Tensor:
        """x: (B, N, D); mask, cache and keep as for `Attention`; (B, keep, D)."""
        attended = self.attention(self.norm_attention(x), mask, cache, keep=keep)
        x = (x if keep is None else x[:, -keep:]) + attended
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class Transformer(nn.Module):
    """Blocks and a final norm; at depth 0 only the norm."""

    def __init__(self, *, width: int, depth: int, heads: int, quick_gelu: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, quick_gelu=quick_gelu) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self._scale_residual_branches(depth)

    def _scale_residual_branches(self, depth: int) -> None:
        """Divide output weights by sqrt(2 depth), so that depth does not increase the scale."""
        for block in self.blocks:
            assert isinstance(block, Block)
            for linear in (block.attention.to_out, block.mlp[-1]):
                assert isinstance(linear, nn.Linear)
                with torch.no_grad():
                    linear.weight.mul_((2 * depth) ** -0.5)
                    linear.bias.zero_()

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        caches: Sequence[KeyValueCache] | None = None,
        *,
        keep: int | None = None,
    ) -> Tensor:
        """x: (B, N, D); mask as for `Attention`; caches: one for each block.

        keep: return only the last `keep` tokens, whose queries alone the last block computes; None:
        all. Returns (B, keep, D).
        """
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            cache = caches[number] if caches else None
            if number == last and keep is not None:
                x = block(x, mask[..., -keep:, :], cache, keep=keep)
            else:
                x = block(x, mask, cache)
        out: Tensor = self.norm(x if keep is None else x[:, -keep:])
        return out  # (B, N, D)
