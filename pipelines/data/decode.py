"""From downloaded bytes to the stored image: decode strictly, then resize and encode.

An image that cannot be decoded completely is refused. img2dataset resizes and encodes.
"""

import importlib.util
import io
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
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

MARKER = re.compile(rb"\xff+([^\0\xff])", re.DOTALL)
START_OF_SCAN, END_OF_IMAGE, APP1 = 0xDA, 0xD9, 0xE1
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
MAX_SCANS = 100  # of a JPEG; each is a pass over all pixels, and progressive files have about ten
MAX_APP1 = 500  # of a JPEG; Pillow joins them, in a time that grows with the square of their number
TILE_WIDTH, TILE_HEIGHT = 322, 323  # tags of TIFF

# Pillow warns of each damaged tag, and a file can have tens of thousands of them.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def open_image(content: bytes, max_pixels: int) -> Image.Image:
    """Read only the header, and check the size before memory is spent on pixels.

    Raises `Refused` for more than `max_pixels`, and for bytes that are not an image.
    """
    if content.startswith(b"\xff\xd8"):
        check_jpeg(content)
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise Refused("not_an_image", f"starts with {content[:16]!r}") from error
    except Image.DecompressionBombError as error:
        raise Refused("too_many_pixels", str(error)) from error
    except Exception as error:
        raise refusal(error) from error
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        raise Refused("too_many_pixels", f"{size}, {max_pixels} pixels allowed")
    return image


def jpeg_markers(content: bytes) -> Iterator[int]:
    """The markers of a JPEG up to its end, found as libjpeg finds them."""
    at = 0
    while found := MARKER.search(content, at):
        (marker,), at = found[1], found.end()
        yield marker
        if marker == END_OF_IMAGE:
            return
        if marker not in WITHOUT_LENGTH:
            at += int.from_bytes(content[at : at + 2], "big")


def check_jpeg(content: bytes) -> None:
    """Raise `Refused` for a JPEG that is small and takes minutes or hours to decode."""
    if content.count(b"\xff\xda") <= MAX_SCANS and content.count(b"\xff\xe1") <= MAX_APP1:
        return  # no more bytes look like markers, wherever they are
    markers = Counter(jpeg_markers(content))
    scans, segments = markers[START_OF_SCAN], markers[APP1]
    if scans > MAX_SCANS or segments > MAX_APP1:
        raise Refused(
            "too_complex",
            f"{scans} scans and {segments} APP1 segments, {MAX_SCANS} and {MAX_APP1} allowed",
        )


def check_tiles(image: Image.Image, max_pixels: int) -> None:
    """Raise `Refused` for a TIFF whose tiles are larger than an image may be.

    A tile is decoded as a whole, also where it lies outside of the image.
    """
    tags = getattr(image, "tag_v2", {})
    pixels = tags.get(TILE_WIDTH, 0) * tags.get(TILE_HEIGHT, 0)
    if pixels > max_pixels:
        raise Refused("too_complex", f"tiles of {pixels} pixels, {max_pixels} allowed")


def refusal(error: Exception) -> Refused:
    """The refusal for an error of Pillow, which raises any type on broken data."""
    cut_off = "truncated" in str(error).lower()
    return Refused("truncated" if cut_off else "undecodable", str(error) or type(error).__name__)


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
        check_tiles(image, max_pixels)
        image.load()
        return to_rgb(to_8_bits(ImageOps.exif_transpose(image)))
    except Refused:
        raise
    except Exception as error:
        raise refusal(error) from error


class DecodedImage:
    """A stream for the resizer of `load_resizer`, which takes its pixels as they are."""

    def __init__(self, image: Image.Image) -> None:
        """image: RGB."""
        flat = np.frombuffer(image.tobytes("raw", "BGR"), np.uint8)
        self.pixels = flat.reshape(image.height, image.width, 3)

    def seek(self, position: int) -> None:
        """There is only one position."""

    def read(self) -> np.ndarray:
        """The pixels; `_DecodedOpenCv.imdecode` gets them next."""
        _DecodedOpenCv.shape = self.pixels.shape
        return self.pixels


class _DecodedOpenCv:
    """OpenCV, except that `imdecode` only restores the shape of a `DecodedImage`."""

    shape: tuple[int, ...] = ()  # of the image that was read last; the resizer has one thread

    def __init__(self, opencv: Any) -> None:
        self.opencv = opencv

    def __getattr__(self, name: str) -> Any:
        return getattr(self.opencv, name)

    def imdecode(self, pixels: np.ndarray, flags: int) -> np.ndarray:  # noqa: ARG002
        """The pixels in the shape of their image."""
        return pixels.reshape(self.shape)


@cache
def load_resizer() -> Any:
    """img2dataset's class `Resizer`, for `DecodedImage`, without the package around it.

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
    module.cv2 = _DecodedOpenCv(module.cv2)  # type: ignore[attr-defined]
    log.debug("loaded the resizer of img2dataset from %s", path)
    return module.Resizer
