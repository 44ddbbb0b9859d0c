"""The norm of all gradients, and clipping to a norm."""

# P trained parameters

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unclip.training.sharding import local, shard_group, whole

CHUNK = 1 << 22  # elements that are converted to float64 at a time


def clip(parameters: Sequence[nn.Parameter], limit: float | None, *, fixed: bool) -> Tensor:
    """Clip the gradients to a norm, in place; returns the norm before, a scalar.

    fixed: compute the norm to the same bits however the weights are shared.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = exact_norm(gradients) if fixed else whole(nn.utils.get_total_norm(gradients))
    if limit is not None:
        torch._foreach_mul_([local(g) for g in gradients], (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def exact_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of tensors, from sums of integers, which do not depend on the order; a scalar.

    Squares are scaled to the largest of their tensor and rounded to integers of at most 62 bits
    less those of the number of elements. Infinite if any element is not finite.
    """
    group = shard_group(gradients[0])
    parts = [local(gradient).detach() for gradient in gradients]
    largest = torch.stack([part.abs().max() if part.numel() else part.sum() for part in parts])
    # (P,); a maximum over workers may ignore NaN
    largest = torch.where(largest.isfinite(), largest, torch.inf)
    if group is not None:
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    if not largest.isfinite().all():
        return largest.max()
    exponents = torch.frexp(largest).exponent.double()  # largest < 2^exponent
    bits = torch.tensor([62 - g.numel().bit_length() for g in gradients], device=largest.device)
    scales = torch.exp2(bits / 2 - exponents)  # (P,); a square is below 2^bits
    sums = torch.stack([_integer_sum(p, s) for p, s in zip(parts, scales, strict=True)])
    if group is not None:
        dist.all_reduce(sums, group=group)
    return (sums * torch.exp2(2 * exponents - bits)).sum().sqrt().float()


def _integer_sum(part: Tensor, scale: Tensor) -> Tensor:
    """The sum of the rounded squares of `part` times `scale`; int64."""
    total = torch.zeros((), dtype=torch.int64, device=part.device)
    for chunk in torch.split(part.flatten(), CHUNK):
        total += chunk.double().mul_(scale).square_().round_().long().sum()
    return total
