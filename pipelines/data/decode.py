"""From downloaded bytes to the stored image: decode strictly, then resize and encode.

An image that cannot be decoded completely is refused. img2dataset resizes and encodes.
"""

import importlib.util
import io
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.data.url_policy import Refused
from unclip.images import to_rgb

log = logging.getLogger(__name__)

# The formats of the web. PIL reads more, and one of those (EPS) would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def open_image(content: bytes, max_pixels: int) -> Image.Image:
    """Read only the header, and check the size before memory is spent on pixels.

    Raises `Refused` for more than `max_pixels`, and for bytes that are not an image.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise Refused("not_an_image", f"starts with {content[:16]!r}") from error
    except Image.DecompressionBombError as error:
        raise Refused("too_many_pixels", str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused("undecodable", str(error)) from error
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        raise Refused("too_many_pixels", f"{size}, {max_pixels} pixels allowed")
    return image


def to_8_bits(image: Image.Image) -> Image.Image:
    """The upper 8 bits of 16-bit grey; any other image unchanged."""
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image).astype(np.int64) >> 8  # (H, W)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def decode_rgb(content: bytes, *, max_pixels: int) -> Image.Image:
    """Decode an image, upright by its EXIF tag; of an animation, the first frame.

    Raises `Refused`.
    """
    image = open_image(content, max_pixels)
    try:
        image.load()
        return to_rgb(to_8_bits(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError, ValueError, IndexError, TypeError) as error:
        # PIL raises any of these on broken data.
        cut_off = "truncated" in str(error)
        raise Refused("truncated" if cut_off else "undecodable", str(error)) from error


@cache
def load_resizer() -> Any:
    """img2dataset's class `Resizer`, loaded from its file without the package around it.

    Importing the package imports wandb, whose folders in the temporary directory stay behind when a
    worker is killed.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # do not look for updates on the network
    package = importlib.util.find_spec("img2dataset")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'img2dataset'", name="img2dataset")
    path = Path(package.submodule_search_locations[0]) / "resizer.py"
    spec = importlib.util.spec_from_file_location("img2dataset_resizer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    log.debug("loaded the resizer of img2dataset from %s", path)
    return module.Resizer
