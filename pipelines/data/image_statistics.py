"""What an image looks like, in one number: a perceptual hash, and how much its colours vary."""

import cv2
import imagehash
import numpy as np
from PIL import Image

SAMPLED = (128, 128)  # pixels of an image that are averaged to those of its hash
HASHED = (32, 32)  # pixels that imagehash looks at
SPREAD_SIDE = 32  # pixels
BORDER = 1 / 16  # of each side


def phash(pixels: np.ndarray) -> int:
    """The 64-bit perceptual hash (pHash) of an image: bits of its low frequencies.

    Copies that were resized or encoded again differ in few bits. An image and its mirror image, or
    two crops of it, differ in many. pixels: (H, W, 3) uint8, BGR. Returns an unsigned integer below
    2^64.
    """
    sampled = cv2.resize(pixels, SAMPLED, interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(sampled, cv2.COLOR_BGR2GRAY)  # (128, 128)
    small = cv2.resize(grey, HASHED, interpolation=cv2.INTER_AREA)
    bits = imagehash.phash(Image.fromarray(small), hash_size=8).hash  # (8, 8) bool
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def colour_spread(image: Image.Image) -> float:
    """The largest standard deviation of the three channels, 0 (one colour) to 127.5.

    A border of 1/16 of each side is cut off, because frames are common around empty images. The
    rest is averaged to 32 x 32 pixels, so noise and the image's size hardly matter.
    """
    width, height = image.size
    inner = (width * BORDER, height * BORDER, width * (1 - BORDER), height * (1 - BORDER))
    small = image.convert("RGB").resize((SPREAD_SIDE, SPREAD_SIDE), Image.Resampling.BOX, box=inner)
    pixels = np.asarray(small, dtype=np.float32)  # (32, 32, 3)
    return float(pixels.std(axis=(0, 1)).max())
