"""`Contestant`, the interface of a benchmarked model, and the random inputs that all share."""

# B batch, L tokens of a caption, E width of CLIP's embeddings, S image size

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.sizes import STEPS, Sizes

VOCABULARY = 64  # small, because embedding tables count as parameters but do no work


@dataclass(frozen=True)
class Contestant:
    """A model of one library, ready to be timed."""

    library: str
    model: nn.Module
    predict: Callable[[], Tensor]  # the forward pass of a training step
    # Returns the function that a sampler calls in each step, with guidance if the model has it.
    # Anything that is computed once for all steps is computed before it returns.
    sampler: Callable[[], Callable[[], Tensor]]

    def parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


@dataclass(frozen=True)
class Inputs:
    """Random inputs of a training or sampling step."""

    timesteps: Tensor  # (B,) int64
    tokens: Tensor  # (B, L) int64
    nothing: Tensor  # (B,) bool: no condition is dropped
    text_hidden: Tensor  # (B, L, E)
    text_embeds: Tensor  # (B, E)
    image_embeds: Tensor  # (B, E)
    pixels: Tensor  # (B, 3, S, S): images for the decoder, crops for the upsampler
    low_res: Tensor  # (B, 3, S, S): condition of the crops, enlarged
    large_pixels: Tensor  # (1, 3, S, S): the x_t that the upsampler denoises when sampling
    large_low_res: Tensor  # (1, 3, S, S): its condition, enlarged


def random_inputs(sizes: Sizes, *, caption_tokens: int | None = None) -> Inputs:
    """Draw the inputs on torch's default device; they are the same for every contestant.

    caption_tokens: number of caption tokens that are not padding; None: all.
    """
    b, width = sizes.batch, sizes.embed_dim
    tokens = torch.randint(1, VOCABULARY, (b, sizes.text_tokens))
    if caption_tokens is not None:
        tokens[:, caption_tokens:] = 0
    crop = (3, sizes.image_size, sizes.image_size)
    large = (3, sizes.large_size, sizes.large_size)
    return Inputs(
        timesteps=torch.randint(STEPS, (b,)),
        tokens=tokens,
        nothing=torch.zeros(b, dtype=torch.bool),
        text_hidden=torch.randn(b, sizes.text_tokens, width) * tokens.ne(0)[:, :, None],
        text_embeds=torch.randn(b, width),
        image_embeds=torch.randn(b, width),
        pixels=torch.randn(b, *crop),
        low_res=torch.randn(b, *crop),
        large_pixels=torch.randn(1, *large),
        large_low_res=torch.randn(1, *large),
    )
