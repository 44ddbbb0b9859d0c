"""torch.compile for the blocks of a model, whose shapes are the same in every training step."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from unclip.training.sharding import blocks_of


def compile_blocks(model: nn.Module) -> None:
    """Compile each block at its first call; dropout draws the same numbers as without."""
    from torch._dynamo import config as dynamo  # here, because their import takes a second
    from torch._inductor import config as inductor

    blocks = blocks_of(model)
    # Blocks of one class share the limit, and those of a U-Net differ in their shapes.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 2 * len(blocks))
    inductor.fallback_random = True
    for block in blocks:
        block.compile(dynamic=False)


def not_compiled(model: nn.Module) -> AbstractContextManager[object]:
    """Run a model without its compiled code, which other shapes would compile again."""
    if any(block._compiled_call_impl is not None for block in blocks_of(model)):
        eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return eager
    return nullcontext()
