"""Contrastive training of a small CLIP, for runs without a pretrained CLIP."""

# B batch, S image side, L text tokens, D embedding width

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unclip.clip.config import MAX_LOGIT_SCALE, ClipArchitecture
from unclip.training.logical_ranks import Batch

if TYPE_CHECKING:
    import open_clip


def build_clip(architecture: ClipArchitecture) -> "open_clip.CLIP":
    """An untrained CLIP; its weights are drawn from torch's global generator."""
    import open_clip  # here: it takes seconds to import

    return open_clip.CLIP(**architecture.open_clip_config())


def clip_loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """The symmetric contrastive loss (Radford et al. 2021, figure 3) of one microbatch.

    batch: "pixels" (B, 3, S, S) in [-1, 1] and "tokens" (B, L) int64. Pairs with equal captions
    share the target probability, so they are not negatives of each other. Negatives come only from
    the logical rank's own microbatch, so the loss does not depend on the number of workers. With
    more logical ranks for the same batch size there are fewer negatives.
    """
    return contrastive_loss(model, random_crop(batch["pixels"], generator), batch["tokens"])


def contrastive_loss(model: nn.Module, pixels: Tensor, tokens: Tensor) -> Tensor:
    """`clip_loss` of pixels (B, 3, S, S) as they are."""
    with _attention(pixels.device):
        image_embeds = F.normalize(model.encode_image(pixels).float(), dim=-1)  # type: ignore[operator]
        text_embeds = F.normalize(model.encode_text(tokens).float(), dim=-1)  # type: ignore[operator]
    logit_scale: Tensor = model.logit_scale  # type: ignore[assignment]
    scale = logit_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)
    logits = scale * image_embeds @ text_embeds.T  # (B, B)
    same = (rearrange(tokens, "b l -> b 1 l") == tokens).all(-1).float()  # (B, B)
    target = same / same.sum(-1, keepdim=True)  # symmetric: equal captions have equal row sums
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """Unfused attention on a CPU, which reduces the time of a bfloat16 step to 0.4."""
    # At these sequence lengths, most of a step is the fused kernel's bfloat16 backward.
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def random_crop(pixels: Tensor, generator: torch.Generator, *, smallest: float = 0.85) -> Tensor:
    """Crop a random square from each image and resize it to the original size; (B, 3, S, S).

    pixels: (B, 3, S, S); smallest: minimum side of the square, as a fraction of S. There is no flip
    and no colour jitter, because captions mention colours and left and right.
    """
    drawn = torch.rand(3, len(pixels), generator=generator, device=generator.device)
    size, x, y = drawn.to(pixels.device)
    scale = smallest + (1 - smallest) * size  # (B,)
    room = 1 - scale  # largest shift of the centre, in coordinates of [-1, 1]
    zero = torch.zeros_like(scale)
    rows = (scale, zero, room * (2 * x - 1), zero, scale, room * (2 * y - 1))
    theta = rearrange(torch.stack(rows, -1), "b (i j) -> b i j", i=2)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)  # (B, S, S, 2)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
