"""Training a small CLIP by contrast, where no pretrained one is at hand.

Shape legend: B batch, S image side, L text tokens, D embedding width.
"""

import math
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unclip.config import Config, ConfigError
from unclip.training.lanes import Batch

MAX_LOGIT_SCALE = 100.0  # as in CLIP (Radford et al. 2021, section 2.5)


@dataclass(frozen=True, kw_only=True)
class ClipArchitecture(Config):
    """A vision transformer and a text transformer of open_clip's, small enough to train here."""

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    text_context_length: int
    text_width: int
    text_layers: int
    text_heads: int
    init_temperature: float  # logits are cosines divided by it, at the start

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            near = max(1, self.image_size // self.patch_size) * self.patch_size
            raise ConfigError(
                f"clip: image_size={self.image_size} is not divisible by "
                f"patch_size={self.patch_size}; try image_size={near}"
            )
        for tower in ("vision", "text"):
            width, heads = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_heads")
            if width % heads:
                raise ConfigError(
                    f"clip: {tower}_width={width} is not divisible by {tower}_heads={heads}; "
                    f"try {tower}_width={max(1, width // heads) * heads}"
                )
        if not 1 / MAX_LOGIT_SCALE <= self.init_temperature <= 1:
            raise ConfigError(
                f"clip: init_temperature={self.init_temperature} must be in "
                f"[{1 / MAX_LOGIT_SCALE}, 1]; CLIP starts from 0.07"
            )

    def open_clip_config(self) -> dict[str, Any]:
        """The architecture as open_clip's model configuration."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "width": self.vision_width,
                "layers": self.vision_layers,
                "head_width": self.vision_width // self.vision_heads,
                "pool_type": "avg",
            },
            "text_cfg": {
                "context_length": self.text_context_length,
                "vocab_size": 49408,  # of open_clip's own tokenizer
                "width": self.text_width,
                "layers": self.text_layers,
                "heads": self.text_heads,
            },
            "init_logit_scale": math.log(1 / self.init_temperature),
        }


def build_clip(architecture: ClipArchitecture) -> open_clip.CLIP:
    """An untrained CLIP; its weights follow from torch's global generator."""
    return open_clip.CLIP(**architecture.open_clip_config())


def clip_loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """The symmetric contrastive loss (Radford et al. 2021, figure 3) of one microbatch.

    batch: "pixels" (B, 3, S, S) in [-1, 1] and "tokens" (B, L) int64. Pictures with equal captions
    are not held against each other: they share the target. The contrast is within the lane's
    microbatch alone, so that it does not depend on the number of workers; more lanes of one batch
    give fewer negatives.
    """
    pixels = random_crop(batch["pixels"], generator)
    tokens: Tensor = batch["tokens"]
    image_embeds = F.normalize(model.encode_image(pixels).float(), dim=-1)  # type: ignore[operator]
    text_embeds = F.normalize(model.encode_text(tokens).float(), dim=-1)  # type: ignore[operator]
    logit_scale: Tensor = model.logit_scale  # type: ignore[assignment]
    scale = logit_scale.float().exp().clamp(max=MAX_LOGIT_SCALE)
    logits = scale * image_embeds @ text_embeds.T  # (B, B)
    same = (rearrange(tokens, "b l -> b 1 l") == tokens).all(-1).float()  # (B, B)
    target = same / same.sum(-1, keepdim=True)  # symmetric: equality has equal row sums
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def random_crop(pixels: Tensor, generator: torch.Generator, *, smallest: float = 0.75) -> Tensor:
    """Cut a square of `smallest` to 1 of the side from each picture and scale it up again.

    pixels: (B, 3, S, S). Place and size change; colours and left and right do not, since captions
    name them.
    """
    size, x, y = torch.rand(3, len(pixels), generator=generator, device=pixels.device)
    scale = smallest + (1 - smallest) * size  # (B,)
    room = 1 - scale  # of the centre on either side, in coordinates of [-1, 1]
    zero = torch.zeros_like(scale)
    rows = (scale, zero, room * (2 * x - 1), zero, scale, room * (2 * y - 1))
    theta = rearrange(torch.stack(rows, -1), "b (i j) -> b i j", i=2)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)  # (B, S, S, 2)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
