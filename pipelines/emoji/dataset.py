"""Four families of emoji: those of the demo, and three others of the same code points.

The demo's held-out emoji are held out here too, with the demo's URLs and captions, so their pairs
have the same keys. The other families' drawings of them are left out.
"""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from importlib import resources
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts.schema import is_held_out
from pipelines.core.page_server import Page, serve_pages
from pipelines.demo import dataset as demo
from pipelines.demo.server import find_page as find_demo_page
from pipelines.emoji.captions import STYLES, UNNAMED, captions

DATA_FILE = "families.parquet"
HELD_OUT_FRACTION = 0.1  # as in the demo
URL_LIST = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("url", "caption", "split")]
)


class Listed(NamedTuple):
    """One row of the list."""

    url: str  # a path on the server
    caption: str
    split: str  # train or held_out


@cache
def rows() -> tuple[Listed, ...]:
    """The list; rows of one image follow each other."""
    return tuple(_rows())


def _rows() -> Iterator[Listed]:
    drawn = families()
    for row in demo.emoji().to_pylist():
        key, label, tags = row["key"], row["label"], row["tags"]
        url, sha256 = f"/emoji/{key}.jpg", hashlib.sha256(row["image"]).hexdigest()
        if is_held_out(None, sha256, HELD_OUT_FRACTION):
            yield Listed(url, demo.caption(label, tags), "held_out")
            continue
        for text in captions(key, label, tags, UNNAMED):
            yield Listed(url, text, "train")
        for family in (family for family in STYLES if (family, key) in drawn):
            for text in captions(key, label, tags, family):
                yield Listed(f"/{family}/{key}.webp", text, "train")


def data_bytes() -> bytes:
    """The bytes of the packaged Parquet file."""
    return resources.files("pipelines.emoji").joinpath("data", DATA_FILE).read_bytes()


@cache
def families() -> dict[tuple[str, str], bytes]:
    """The images (WebP, 64 pixels, on white) by family and key."""
    table = pq.ParquetFile(pa.BufferReader(data_bytes())).read()
    return {(row["family"], row["key"]): row["image"] for row in table.to_pylist()}


@cache
def digest() -> str:
    """sha256 of the images and the rows."""
    found = hashlib.sha256(demo.data_bytes() + data_bytes())
    for row in rows():
        found.update("\0".join(row).encode())
    return found.hexdigest()


def url_list() -> pa.Table:
    """The list with relative URLs (columns url, caption, split)."""
    columns = zip(*rows(), strict=True)
    return pa.table(dict(zip(URL_LIST.names, map(list, columns), strict=True)), schema=URL_LIST)


def find_page(path: str) -> Page | None:
    """The image at a path, or None."""
    _, _, family_and_name = path.partition("/")
    family, _, name = family_and_name.partition("/")
    image = families().get((family, name.removesuffix(".webp")))
    return find_demo_page(path) if image is None else ("image/webp", image)


def serve(port: int) -> AbstractContextManager[int]:
    """Serve the images on 127.0.0.1 until the block ends; yields the port.

    Port 0 means any free port. Raises PageServerError if the port is in use.
    """
    return serve_pages(find_page, port=port, name="the emoji")
