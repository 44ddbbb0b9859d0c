"""What the benchmarks ask of a model, and what they give it."""

# B batch, L tokens of a caption, E width of CLIP's embeddings, S image size

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.sizes import STEPS, Sizes

VOCABULARY = 64  # small: a table of words would count as parameters, which do no work


@dataclass(frozen=True)
class Contestant:
    """A model of one library, ready to be timed."""

    library: str
    model: nn.Module
    predict: Callable[[], Tensor]  # the forward of a training step
    # Returns what a sampler calls in every step, with guidance where the model has it. What it
    # computes once for all steps, it computes before it returns.
    sampler: Callable[[], Callable[[], Tensor]]

    def parameters(self) -> int:
        """How many it trains."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


@dataclass(frozen=True)
class Inputs:
    """Random numbers of the right shapes."""

    timesteps: Tensor  # (B,) int64
    tokens: Tensor  # (B, L) int64
    nothing: Tensor  # (B,) bool: no condition is dropped
    text_hidden: Tensor  # (B, L, E)
    text_embeds: Tensor  # (B, E)
    image_embeds: Tensor  # (B, E)
    pixels: Tensor  # (B, 3, S, S): the decoder's, and the upsampler's crops
    low_res: Tensor  # (B, 3, S, S): the crops' condition, enlarged
    large_pixels: Tensor  # (1, 3, S, S): what the upsampler samples
    large_low_res: Tensor  # (1, 3, S, S): its condition, enlarged


def random_inputs(sizes: Sizes, *, caption_tokens: int | None = None) -> Inputs:
    """The same for every contestant, on torch's default device.

    caption_tokens: how many of a caption's tokens are not padding; None: all.
    """
    b, width = sizes.batch, sizes.embed_dim
    tokens = torch.randint(1, VOCABULARY, (b, sizes.text_tokens))
    if caption_tokens is not None:
        tokens[:, caption_tokens:] = 0
    crop, pipeline = (
        (3, sizes.image_size, sizes.image_size),
        (3, sizes.large_size, sizes.large_size),
    )
    return Inputs(
        timesteps=torch.randint(STEPS, (b,)),
        tokens=tokens,
        nothing=torch.zeros(b, dtype=torch.bool),
        text_hidden=torch.randn(b, sizes.text_tokens, width) * tokens.ne(0)[:, :, None],
        text_embeds=torch.randn(b, width),
        image_embeds=torch.randn(b, width),
        pixels=torch.randn(b, *crop),
        low_res=torch.randn(b, *crop),
        large_pixels=torch.randn(1, *pipeline),
        large_low_res=torch.randn(1, *pipeline),
    )
