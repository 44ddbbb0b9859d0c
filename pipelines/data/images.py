"""From downloaded bytes to the columns of a pair: decode, resize, encode, renditions, hashes."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from pipelines.artifacts.schema import rendition
from pipelines.data.decode import decode_bgr
from pipelines.data.image_statistics import phash
from pipelines.data.pixels import decode_pixels
from pipelines.data.resizer import DecodedImage, load_resizer
from pipelines.data.url_policy import Refused

# More extreme images are banners and rules; with keep_ratio they would grow to gigabytes.
MAX_ASPECT_RATIO = 50.0
KNOWN_ERRORS = {"aspect ratio too large": "aspect_ratio"}


@dataclass(frozen=True)
class ImageEncoder:
    """Makes the image columns of a pair. One thread at a time: the resizer replaces stdout."""

    image_size: int
    resize_mode: str
    encode_format: str
    encode_quality: int
    renditions: tuple[int, ...]
    max_pixels: int

    def columns(self, content: bytes) -> dict[str, Any]:
        """The image and what is known about it, from the downloaded bytes. Raises `Refused`."""
        decoded = decode_bgr(content, max_pixels=self.max_pixels)
        image, width, height, original_width, original_height, error = self.resizer(
            DecodedImage(decoded)
        )
        if error is not None:
            raise Refused(KNOWN_ERRORS.get(error, "unresizable"), error)
        return {
            "image": image,
            **{rendition(size): self.smaller(image, size) for size in self.renditions},
            "width": width,
            "height": height,
            "original_width": original_width,
            "original_height": original_height,
            "sha256": hashlib.sha256(content).hexdigest(),
            "phash": phash(decoded),
        }

    def smaller(self, image: bytes, size: int) -> bytes:
        """The centre square of a stored image, shrunk and encoded like it."""
        shrunk, encoded = Image.fromarray(decode_pixels(image, size)), io.BytesIO()
        if self.encode_format == "png":
            shrunk.save(encoded, "PNG", compress_level=self.encode_quality)
        else:
            shrunk.save(encoded, "JPEG", quality=self.encode_quality)
        return encoded.getvalue()

    @cached_property
    def resizer(self) -> Any:
        """img2dataset's resizer of one image.

        Returns (bytes, width, height, original width, original height, error).
        """
        return load_resizer()(
            self.image_size,
            self.resize_mode,
            resize_only_if_bigger=False,
            encode_format=self.encode_format,
            encode_quality=self.encode_quality,
            max_aspect_ratio=MAX_ASPECT_RATIO,
        )
