"""Decode downloaded bytes strictly: an image that cannot be decoded completely is refused."""

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pipelines.data.url_policy import Refused
from unclip.images import to_rgb

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
    return _load_rgb(open_image(content, max_pixels), max_pixels)


def decode_bgr(content: bytes, *, max_pixels: int) -> np.ndarray:
    """The pixels of `decode_rgb` in OpenCV's order, (H, W, 3) uint8. Raises `Refused`.

    Plain JPEGs, nearly all images of the web, are decoded in a third of Pillow's time.
    """
    image = open_image(content, max_pixels)
    pixels = _decode_plain_jpeg(content, image)
    if pixels is None:
        rgb = _load_rgb(image, max_pixels)
        flat = np.frombuffer(rgb.tobytes("raw", "BGR"), np.uint8)
        pixels = flat.reshape(rgb.height, rgb.width, 3)
    return pixels


def _load_rgb(image: Image.Image, max_pixels: int) -> Image.Image:
    try:
        check_tiles(image, max_pixels)
        image.load()
        return to_rgb(to_8_bits(ImageOps.exif_transpose(image)))
    except Refused:
        raise
    except Exception as error:
        raise refusal(error) from error


def _decode_plain_jpeg(content: bytes, image: Image.Image) -> np.ndarray | None:
    """The pixels of an intact, upright JPEG in grey or colour; None leaves the image to Pillow."""
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return None
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(content, "BGR", strict=True)
    except Exception:  # Pillow raises any type on broken metadata
        return None
    return pixels
