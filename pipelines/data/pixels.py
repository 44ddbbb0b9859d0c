"""From a stored image to the pixels of a model."""

import io

import numpy as np
from PIL import Image, ImageOps


def decode_pixels(image: bytes, image_size: int) -> np.ndarray:
    """A stored image as (S, S, 3) uint8: the centre square, box-averaged down or bicubic up."""
    with Image.open(io.BytesIO(image)) as stored:
        rgb = stored.convert("RGB")
    if rgb.size != (image_size, image_size):
        is_larger = min(rgb.size) > image_size
        method = Image.Resampling.BOX if is_larger else Image.Resampling.BICUBIC
        rgb = ImageOps.fit(rgb, (image_size, image_size), method=method)
    return np.asarray(rgb)
