"""Pictures between tensors, PNG bytes, thumbnails and grids."""

# B batch, S side; tensors (B, 3, S, S) in [-1, 1]

import io
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from pipelines.artifacts.schema import THUMBNAIL_SIDE

GAP = 4  # pixels between the pictures of a grid


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, S, S) in [-1, 1] as PIL pictures."""
    array = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
    return [Image.fromarray(one.numpy()) for one in rearrange(array, "b c h w -> b h w c")]


def png(image: Image.Image) -> bytes:
    """Lossless bytes."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def thumbnail(image: Image.Image) -> bytes:
    """Raw RGB bytes of the picture at `THUMBNAIL_SIDE`, every pixel an average of its area."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return image.convert("RGB").resize(size, Image.Resampling.BOX).tobytes()


def read_thumbnails(contents: Sequence[bytes]) -> np.ndarray:
    """(B, S, S, 3) float32 in [0, 1]."""
    flat = np.frombuffer(b"".join(contents), np.uint8).astype(np.float32) / 255
    return rearrange(flat, "(b h w c) -> b h w c", h=THUMBNAIL_SIDE, w=THUMBNAIL_SIDE, c=3)


def grid(rows: Sequence[Sequence[bytes]], side: int) -> bytes:
    """A PNG of encoded pictures in rows, each scaled to `side` without blurring its pixels."""
    columns = max(len(row) for row in rows)
    step = side + GAP
    canvas = Image.new("RGB", (columns * step - GAP, len(rows) * step - GAP), "white")
    for y, row in enumerate(rows):
        for x, content in enumerate(row):
            with Image.open(io.BytesIO(content)) as encoded:
                shown = encoded.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(shown, (x * step, y * step))
    return png(canvas)
