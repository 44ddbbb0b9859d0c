"""The demo's packaged data: 1,868 3D emoji with their names, and a dozen rows that fail on purpose.

The images are downloaded from a list of URLs, like those of any other source;
`pipelines.demo.server` serves them on the loopback address.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.page_server import HOST

DATA_FILE = "emoji.parquet"
TAGS_IN_CAPTION = 3

URL_LIST = pa.schema(
    [pa.field("url", pa.string(), nullable=False), pa.field("caption", pa.string(), nullable=False)]
)

# One row for each common fault of a URL list from the web: (url or path on the server, caption).
FAILING_ROWS = (
    ("/emoji/no-such-key.jpg", "a picture that is gone"),
    ("/fail/page.jpg", "a web page in place of a picture"),
    ("/fail/truncated.jpg", "a picture that was cut off"),
    ("/fail/tiny.jpg", "a picture of eight by eight pixels"),
    ("/fail/wide.jpg", "a picture twenty times as wide as high"),
    ("/emoji/1f34b.jpg", ""),
    ("/emoji/1f408.jpg", "2021-04-07 18:32:10"),
    ("/emoji/1f333.jpg", "Ein großer grüner Laubbaum mit einem kräftigen braunen Stamm"),
    ("/emoji/1f3e0.jpg", "Une petite maison avec un toit rouge et un jardin devant la porte"),
    ("file:///etc/hostname", "a file of the machine that downloads"),
    ("ftp://ftp.example.invalid/picture.jpg", "a picture behind another protocol"),
    ("http://10.0.0.1/picture.jpg", "a service of the internal network"),
)


def words(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def caption(label: str, tags: Sequence[str]) -> str:
    """The caption of an image: its label, and up to three tags that add words to it.

    The tags are in alphabetical order, so three random ones are taken; the label is the seed.
    """
    known = words(label)
    new = [tag for tag in tags if tag.isascii() and not known & words(tag)]
    chosen = random.Random(label).sample(new, k=min(TAGS_IN_CAPTION, len(new)))
    return ", ".join([label, *chosen])


def data_bytes() -> bytes:
    """The bytes of the packaged Parquet file."""
    return resources.files("pipelines.demo").joinpath("data", DATA_FILE).read_bytes()


@cache
def emoji() -> pa.Table:
    """The packaged data: key, label, tags, group, image (JPEG)."""
    return pq.ParquetFile(pa.BufferReader(data_bytes())).read()


@cache
def rows() -> tuple[tuple[str, str], ...]:
    """All (url or server path, caption), with the failing rows spread among the others."""
    known = emoji().select(["key", "label", "tags"]).to_pylist()
    good = [(f"/emoji/{r['key']}.jpg", caption(r["label"], r["tags"])) for r in known]
    failing = [*FAILING_ROWS, good[0]]  # the last one is an exact duplicate of a row
    every = len(good) // len(failing)
    for position, row in enumerate(failing):
        good.insert((position + 1) * every, row)
    return tuple(good)


def url_list(port: int | None = None) -> pa.Table:
    """The demo's list (columns url, caption) for a server on `port`; without one, relative URLs."""
    base = "" if port is None else f"http://{HOST}:{port}"
    urls = [f"{base}{url}" if url.startswith("/") else url for url, _ in rows()]
    return pa.table({"url": urls, "caption": [text for _, text in rows()]}, schema=URL_LIST)


@cache
def digest() -> str:
    """sha256 of the images, the captions and the failing rows; it does not depend on the port."""
    found = hashlib.sha256(data_bytes())
    for url, text in rows():
        found.update(f"{url}\0{text}\0".encode())
    return found.hexdigest()
