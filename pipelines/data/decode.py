"""From downloaded bytes to RGB pixels, strictly: what cannot be decoded whole is refused."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.data.url_policy import Refused
from unclip.images import to_rgb

# What the web serves. PIL knows more, and one of them (EPS) would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def open_picture(content: bytes, max_pixels: int) -> Image.Image:
    """Read the header alone, so that the size is known before memory is spent on pixels."""
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise Refused("not_an_image", f"starts with {content[:16]!r}") from error
    except Image.DecompressionBombError as error:
        raise Refused("too_many_pixels", str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused("undecodable", str(error)) from error
    if picture.width * picture.height > max_pixels:
        size = f"{picture.width}x{picture.height}"
        raise Refused("too_many_pixels", f"{size}, {max_pixels} pixels allowed")
    return picture


def to_8_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey with its upper 8 bits; any other picture as it is."""
    if not picture.mode.startswith("I"):
        return picture
    grey = np.asarray(picture).astype(np.int64) >> 8  # (H, W)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def decode_rgb(content: bytes, *, max_pixels: int) -> Image.Image:
    """Decode a picture (of an animation, the first), upright. Raises `Refused`."""
    picture = open_picture(content, max_pixels)
    try:
        picture.load()
        return to_rgb(to_8_bits(ImageOps.exif_transpose(picture)))
    except (OSError, SyntaxError, ValueError, IndexError, TypeError) as error:
        # PIL raises any of these on broken data.
        cut_off = "truncated" in str(error)
        raise Refused("truncated" if cut_off else "undecodable", str(error)) from error
