"""Image files, byte by byte, where an encoder would be too polite."""

import struct
import zlib
from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
ADAM7 = [
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
]
TIFF_TAGS = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262}
TIFF_TAGS |= {"strip_offsets": 273, "samples": 277, "rows_per_strip": 278, "strip_bytes": 279}
TIFF_TAGS |= {"tile_width": 322, "tile_height": 323, "tile_offsets": 324, "tile_bytes": 325}


def encode(
    image: Image.Image, format_: str, append_images: Sequence[Image.Image] = (), **options: object
) -> bytes:
    encoded = BytesIO()
    # Copies, because Pillow keeps the settings of one format for the next.
    others = [other.copy() for other in append_images]
    image.copy().save(encoded, format_, append_images=others, **options)
    return encoded.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    pixels: np.ndarray,
    *,
    extra: bytes = b"",
    interlaced: bool = False,
    declared: Sequence[int] = (),
) -> bytes:
    """A PNG of (H, W, C) uint8 or uint16 pixels.

    extra: chunks before the pixels. declared: another width and height than the pixels have.
    """
    height, width, channels = pixels.shape
    size = tuple(declared) or (width, height)
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", *size, pixels.itemsize * 8, colour_type, 0, 0, interlaced)
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    rows = (row for x, y, dx, dy in passes for row in pixels[y::dy, x::dx])
    data = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in rows)
    image_data = chunk(b"IDAT", zlib.compress(data))
    return PNG + chunk(b"IHDR", header) + extra + image_data + chunk(b"IEND")


def insert_segments(jpeg: bytes, segments: Iterable[tuple[int, bytes]]) -> bytes:
    """A JPEG with further segments (marker, content) behind its first marker."""
    inserted = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in segments
    )
    return jpeg[:2] + inserted + jpeg[2:]


def with_jpeg_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A baseline JPEG whose frame header gives another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def arithmetic(jpeg: bytes) -> bytes:
    """A JPEG whose frame header announces arithmetic coding; its scan is zeros."""
    scan = jpeg.index(b"\xff\xda")
    length = struct.unpack(">H", jpeg[scan + 2 : scan + 4])[0]
    return jpeg[: scan + 2 + length].replace(b"\xff\xc0", b"\xff\xc9") + bytes(8) + b"\xff\xd9"


def tiff(data: bytes, **tags: int) -> bytes:
    """A TIFF of one RGB strip or tile, with these values of `TIFF_TAGS` (all integers)."""
    where, count = ("tile", 1) if "tile_width" in tags else ("strip", 1)
    given = {"bits": 8, "compression": 1, "photometric": 2, "samples": 3}
    given |= {f"{where}_offsets": 8, f"{where}_bytes": len(data)} | tags
    entries = sorted((TIFF_TAGS[name], value) for name, value in given.items())
    directory = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(entries)) + directory + bytes(4)


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int], comments: int = 0) -> bytes:
    """A GIF of one colour. frame: left, top, width, height."""
    left, top, width, height = frame
    pixels = encode(Image.new("P", (width, height), 1), "GIF")
    body = pixels[pixels.index(b"\x2c") + 10 :] if width * height else b"\x02\x00\x3b"
    header = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(3) + b"\xff\0\0"
    descriptor = b"\x2c" + struct.pack("<HHHHB", left, top, width, height, 0)
    return header + b"\x21\xfe\x01x\0" * comments + descriptor + body


def bmp(width: int, height: int, *, bits: int = 24, colours: int = 0, pixels: bytes = b"") -> bytes:
    """A BMP with any header fields; a negative height lists the rows from the top."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + header + pixels


def webp(canvas: tuple[int, int], image: bytes) -> bytes:
    """An extended WebP with this canvas around the image of a simple one."""
    size = b"".join(struct.pack("<I", side - 1)[:3] for side in canvas)
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + image[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def box(kind: bytes, brand: bytes) -> bytes:
    """The first box of an ISO media file."""
    return struct.pack(">I", 24) + kind + brand + bytes(4) + brand + b"mif1"
