"""Convert images to PNG bytes and thumbnails, and back."""

# B images, S side in pixels

import io
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from PIL import Image

from pipelines.artifacts.schema import THUMBNAIL_SIDE


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
