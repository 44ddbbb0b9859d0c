"""Activation checkpointing: blocks are computed again in the backward pass, to save memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from unclip.training.sharding import blocks_of

aten = torch.ops.aten
EXPENSIVE = frozenset(  # operations whose results are kept when checkpointing is selective
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.convolution.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def recompute_blocks(model: nn.Module, *, selective: bool) -> None:
    """Keep only the inputs of each block for the backward pass.

    selective: also keep the results of matrix products, convolutions and attention.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if selective:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks_of(model):
        forward: Callable[..., Any] = block.forward
        block.forward = partial(checkpoint, forward, **options)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:  # noqa: ARG001
    keep = operation in EXPENSIVE
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
