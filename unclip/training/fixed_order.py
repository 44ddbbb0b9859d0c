"""The same order of summation within a backward pass, whether weights are sharded or not."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from unclip.training.sharding import blocks_of


def join_inputs_of_blocks(model: nn.Module) -> None:
    """Make all gradients of a block's inputs known at once, as FSDP does.

    An input of many blocks, such as the conditioning vector, gets a sum of gradients. Its order is
    that in which they become known, which would otherwise depend on the operations of the blocks.
    """
    for block in blocks_of(model):
        block.register_forward_pre_hook(_join, with_kwargs=True)


class _Joined(torch.autograd.Function):
    """The identity of several tensors."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        return tensors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        return gradients


def _join(
    block: nn.Module,  # noqa: ARG001
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    leaves, structure = tree_flatten((args, kwargs))
    trained = [
        i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad
    ]
    if not torch.is_grad_enabled() or not trained:
        return args, kwargs
    for i, joined in zip(trained, _Joined.apply(*(leaves[i] for i in trained)), strict=True):
        leaves[i] = joined
    args, kwargs = tree_unflatten(leaves, structure)
    return args, kwargs
