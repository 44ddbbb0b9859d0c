"""Convert images between tensors, PNG bytes and thumbnails."""

# B images, S side in pixels

import io
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from pipelines.artifacts.schema import THUMBNAIL_SIDE


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, S, S) in [-1, 1] as 8-bit RGB images; values outside are clamped."""
    array = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
    return [Image.fromarray(one.numpy()) for one in rearrange(array, "b c h w -> b h w c")]


def encode_png(image: Image.Image) -> bytes:
    """The image as the bytes of a PNG file."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def decode_png(content: bytes) -> Image.Image:
    """The RGB image in the bytes of a PNG file."""
    with Image.open(io.BytesIO(content)) as encoded:
        return encoded.convert("RGB")


def encode_thumbnail(image: Image.Image) -> bytes:
    """Raw RGB bytes of the image, averaged by area to `THUMBNAIL_SIDE` squared pixels."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return image.convert("RGB").resize(size, Image.Resampling.BOX).tobytes()


def decode_thumbnails(contents: Sequence[bytes]) -> np.ndarray:
    """(B, S, S, 3) float32 in [0, 1], S being `THUMBNAIL_SIDE`."""
    flat = np.frombuffer(b"".join(contents), np.uint8).astype(np.float32) / 255
    return rearrange(flat, "(b h w c) -> b h w c", h=THUMBNAIL_SIDE, w=THUMBNAIL_SIDE, c=3)
