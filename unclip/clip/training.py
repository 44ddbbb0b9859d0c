"""Contrastive training of a small CLIP, for runs without a pretrained one."""

# B batch, S image side, L text tokens, D embedding width

from contextlib import AbstractContextManager, nullcontext

import open_clip
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unclip.clip.config import MAX_LOGIT_SCALE, ClipArchitecture
from unclip.training.logical_ranks import Batch


def build_clip(architecture: ClipArchitecture) -> open_clip.CLIP:
    """An untrained CLIP; its weights are drawn from torch's global generator."""
    return open_clip.CLIP(**architecture.open_clip_config())


def clip_loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """The symmetric contrastive loss (Radford et al. 2021, figure 3) of one microbatch.

    batch: "pixels" (B, 3, S, S) in [-1, 1] and "tokens" (B, L) int64. Images with equal captions
    share the target, so they are not contrasted with each other. The contrast is within the logical
    rank's microbatch, so it does not depend on the number of workers; more logical ranks of one
    batch give fewer negatives.
    """
    pixels = random_crop(batch["pixels"], generator)
    tokens: Tensor = batch["tokens"]
    with _attention(pixels.device):
        image_embeds = F.normalize(model.encode_image(pixels).float(), dim=-1)  # type: ignore[operator]
        text_embeds = F.normalize(model.encode_text(tokens).float(), dim=-1)  # type: ignore[operator]
    logit_scale: Tensor = model.logit_scale  # type: ignore[assignment]
    scale = logit_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)
    logits = scale * image_embeds @ text_embeds.T  # (B, B)
    same = (rearrange(tokens, "b l -> b 1 l") == tokens).all(-1).float()  # (B, B)
    target = same / same.sum(-1, keepdim=True)  # symmetric: equality has equal row sums
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """Attention by plain matrix products on a CPU, where bfloat16 steps take 0.4 of the time."""
    # The fused CPU kernel's backward in bfloat16 is most of a step at these sequence lengths.
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def random_crop(pixels: Tensor, generator: torch.Generator, *, smallest: float = 0.85) -> Tensor:
    """Cut a random square from each image and scale it back to the full side.

    pixels: (B, 3, S, S); smallest: the least side of the square, as a fraction of S. Colours and
    left and right do not change, because captions name them.
    """
    drawn = torch.rand(3, len(pixels), generator=generator, device=generator.device)
    size, x, y = drawn.to(pixels.device)
    scale = smallest + (1 - smallest) * size  # (B,)
    room = 1 - scale  # of the centre on either side, in coordinates of [-1, 1]
    zero = torch.zeros_like(scale)
    rows = (scale, zero, room * (2 * x - 1), zero, scale, room * (2 * y - 1))
    theta = rearrange(torch.stack(rows, -1), "b (i j) -> b i j", i=2)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)  # (B, S, S, 2)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
