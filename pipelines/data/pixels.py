"""From a stored image to the pixels of a model."""

# S image size

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

JPEG = b"\xff\xd8"
PLAIN = ("YCbCr", "Gray")  # colour spaces that libjpeg converts to RGB as Pillow does


def decode_pixels(image: bytes, image_size: int) -> np.ndarray:
    """A stored image as (S, S, 3) uint8: the centre square, box-averaged down or bicubic up."""
    pixels = np.empty((image_size, image_size, 3), np.uint8)
    decode_into(pixels, image)
    return pixels


def decode_into(pixels: np.ndarray, image: bytes) -> None:
    """The same, written to `pixels`, which is contiguous. Raises any type on a broken image."""
    if not (image.startswith(JPEG) and _decode_jpeg(pixels, image)):
        pixels[:] = _decode_any(image, len(pixels))


def _decode_jpeg(pixels: np.ndarray, image: bytes) -> bool:
    """Decode a plain JPEG of the wanted size in two thirds of Pillow's time, to the same pixels.

    Returns False for any other image, which is left to Pillow.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(image)
        if (height, width) != pixels.shape[:2] or colours not in PLAIN:
            return False
        simplejpeg.decode_jpeg(image, "RGB", buffer=pixels)
    except ValueError:  # Pillow says what is wrong, or accepts the image
        return False
    return True


def _decode_any(image: bytes, image_size: int) -> np.ndarray:
    with Image.open(io.BytesIO(image)) as stored:
        rgb = stored.convert("RGB")
    if rgb.size != (image_size, image_size):
        is_larger = min(rgb.size) > image_size
        method = Image.Resampling.BOX if is_larger else Image.Resampling.BICUBIC
        rgb = ImageOps.fit(rgb, (image_size, image_size), method=method)
    return np.asarray(rgb)
