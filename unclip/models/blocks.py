"""Blocks of the U-Net: the ADM residual block and attention (Dhariwal and Nichol 2021)."""

# B batch, C channels, H height, W width, D width of the conditioning vector
# N context tokens, E their width, h heads

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.models.group_norm import GroupNorm
from unclip.models.kernels import uses_cpu_code
from unclip.models.layers import attend, zero_init
from unclip.validation import check_divisible


def convolve_doubled(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Upsample x (B, C, H, W) by 2 (nearest) and apply a 3x3 convolution; (B, C, 2H, 2W).

    Only four of the nine pixels under the kernel differ, so a transposed convolution with merged
    taps gives the same result with 16 products per input pixel instead of 36.
    """
    taps = torch.zeros(3, 4, device=x.device, dtype=conv.weight.dtype)
    # [i, j] = 1 if row i of the kernel contributes to row j of the 4x4 kernel; columns alike.
    taps[[0, 0, 1, 1, 2, 2], [3, 2, 2, 1, 1, 0]] = 1
    both = taps[:, None, :, None] * taps[:, None, :]  # (3, 3, 4, 4)
    kernel = torch.einsum("oihw,hwkl->iokl", conv.weight, both)
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def _pays_to_merge_taps(x: Tensor) -> bool:
    """Whether `convolve_doubled` is faster; on small maps, building its kernel costs more."""
    return uses_cpu_code(x) and x.shape[0] * x.shape[2] * x.shape[3] >= 512


def _silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that is not used again; in place when no gradients are recorded."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """Two convolutions; the conditioning vector scales and shifts the output of the second norm.

    Without `scale_shift`, the vector's projection is added before that norm (Ho et al. 2020). With
    `resample` "up" or "down", the block doubles or halves the resolution on both branches.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        condition_width: int,
        norm_groups: int,
        dropout: float,
        resample: str = "",
        scale_shift: bool = True,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.scale_shift = scale_shift
        self.norm_in = GroupNorm(norm_groups, in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if scale_shift:
            self.to_scale_shift = nn.Linear(condition_width, 2 * out_channels)
        else:
            self.to_shift = nn.Linear(condition_width, out_channels)
        self.norm_out = GroupNorm(norm_groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def _resize(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (B, C, H, W); condition: (B, D), already activated."""
        h = _silu(self.norm_in(x))
        if self.resample == "up" and _pays_to_merge_taps(h):
            h = convolve_doubled(h, self.conv_in)
        else:
            h = self.conv_in(self._resize(h))
        if self.scale_shift:
            scale, shift = self.to_scale_shift(condition).chunk(2, dim=1)  # (B, C) each
            h = self.norm_out(h, scale, shift)
        else:
            h = self.norm_out(h + self.to_shift(condition)[:, :, None, None])
        h = self.conv_out(self.dropout(_silu(h)))
        out: Tensor = self.skip(self._resize(x)) + h
        return out


class AttentionBlock(nn.Module):
    """Self-attention over pixels, whose keys include the context tokens, if any (as in GLIDE)."""

    def __init__(
        self, channels: int, *, head_channels: int, norm_groups: int, context_width: int | None
    ) -> None:
        super().__init__()
        check_divisible("unet.channels at an attention resolution", channels, head_channels)
        self.heads = channels // head_channels
        self.norm = GroupNorm(norm_groups, channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.context_to_kv = nn.Linear(context_width, 2 * channels) if context_width else None
        self.to_out = zero_init(nn.Linear(channels, channels))

    def project(self, context: Tensor) -> Tensor:
        """Project a context (B, N, E) to keys and values; (2, B, h, N, C/h)."""
        assert self.context_to_kv is not None
        projected: Tensor = rearrange(
            self.context_to_kv(context), "b n (two h d) -> two b h n d", two=2, h=self.heads
        )
        return projected

    def forward(self, x: Tensor, projected: Tensor | None, visible: Tensor | None) -> Tensor:
        """x: (B, C, H, W); projected: (2, B, h, N, C/h), from `project`; visible: (B, N) bool."""
        pixels = rearrange(self.norm(x), "b c h w -> b (h w) c")
        q, k, v = rearrange(
            self.to_qkv(pixels), "b n (three h d) -> three b h n d", three=3, h=self.heads
        ).unbind(0)
        mask = None
        if projected is not None:
            assert visible is not None
            k, v = torch.cat([k, projected[0]], dim=2), torch.cat([v, projected[1]], dim=2)
            mask = F.pad(visible, (pixels.shape[1], 0), value=True)[:, None, None, :]
        attended = attend(q, k, v, mask)
        out: Tensor = self.to_out(rearrange(attended, "b h n d -> b n (h d)"))
        out = rearrange(out, "b (h w) c -> b c h w", h=x.shape[2])
        return x + out
