"""Group normalisation with per-sample gain and bias, and a backward pass that is fast on a CPU."""

# B batch, C channels, H height, W width, P pixels

from typing import Any

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from unclip.models.kernels import uses_cpu_code

LARGE = 1024  # pixels; from here on, torch's backward for channels_last is slower than ours


class GroupNorm(nn.GroupNorm):
    """torch's group norm, followed by an optional per-sample scale and shift of the channels."""

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """x: (B, C, H, W); scale, shift: (B, C), for norm(x) * (1 + scale) + shift."""
        if _is_slow_in_torch(x):
            gain, bias = self.weight.expand(len(x), -1), self.bias.expand(len(x), -1)
            if scale is not None and shift is not None:
                gain, bias = gain * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
            out: Tensor = _PerSample.apply(x, gain, bias, self.num_groups, self.eps)
            return out
        h = super().forward(x)
        if scale is None or shift is None:
            return h
        return torch.addcmul(shift[:, :, None, None], h, 1 + scale[:, :, None, None])


def _is_slow_in_torch(x: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and uses_cpu_code(x)
        and x.shape[2] * x.shape[3] >= LARGE
        and x.is_contiguous(memory_format=torch.channels_last)
    )


class _PerSample(torch.autograd.Function):
    """Group norm with gain and bias (B, C); its backward pass reads the pixels only a few times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        b, c, h, w = x.shape
        y, mean, rstd = torch.native_group_norm(x, None, None, b, c, h * w, groups, eps)
        ctx.save_for_backward(x, gain, mean, rstd)
        gain, bias = gain.to(x.dtype)[:, :, None, None], bias.to(x.dtype)[:, :, None, None]
        return torch.addcmul(bias, y, gain)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """With x̂ = (x - mean) rstd and g = gain · grad: dx = rstd (g - mean(g) - x̂ mean(g x̂))."""
        x, gain, mean, rstd = ctx.saved_tensors
        group = x.shape[1] // mean.shape[1]  # channels per group
        pixels, grads = (rearrange(t, "b c h w -> b (h w) c") for t in (x, grad))
        exact = torch.promote_types(x.dtype, torch.float32)
        of_grad = grads.sum(1, dtype=exact)  # (B, C)
        of_product = (grads * pixels).sum(1, dtype=exact)  # (B, C)
        mean, rstd = (repeat(t.to(exact), "b g -> b (g n)", n=group) for t in (mean, rstd))
        grad_gain = (of_product - mean * of_grad) * rstd  # (B, C): sum of grad · x̂

        def mean_over_group(of_channels: Tensor) -> Tensor:
            means = reduce(of_channels, "b (g n) -> b g", "mean", n=group) / pixels.shape[1]
            return repeat(means, "b g -> b (g n)", n=group)

        slope = -mean_over_group(gain * grad_gain) * rstd**2  # (B, C); dx = slope x + offset + ...
        offset = -mean_over_group(gain * of_grad) * rstd - slope * mean
        slope, offset, factor = (t[:, None].to(x.dtype) for t in (slope, offset, gain * rstd))
        dx = torch.addcmul(offset, pixels, slope).addcmul_(grads, factor)  # (B, P, C)
        dx = rearrange(dx, "b (h w) c -> b c h w", h=x.shape[2])
        return dx, grad_gain.to(gain.dtype), of_grad.to(gain.dtype), None, None
