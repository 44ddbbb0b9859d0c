"""The list of scenes to train on, and their drawings.

Some combinations are held out: no training caption has them, but each of their parts is in some
training caption.
"""

import hashlib
import io
import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import NamedTuple

import pyarrow as pa

from pipelines.core.page_server import Page, serve_pages
from pipelines.scenes.drawing import draw
from pipelines.scenes.scene import VERSION, Kind, Scene, all_scenes

HELD_OUT, TRAINING = "held_out", "train"
HELD_OUT_SHARE = 0.15  # of the combinations
DRAWINGS: Mapping[Kind, int] = {"single": 12, "binding": 2, "counting": 8, "text": 4}  # of a scene
SIDE = 128  # pixels
URL_LIST = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("url", "caption", "split")]
)


class Row(NamedTuple):
    """One drawing of a scene."""

    path: str  # on the server
    scene: Scene
    number: int


def is_held_out(scene: Scene) -> bool:
    """Whether a scene's combination is held out; the relation of two objects does not matter."""
    if scene.kind == "binding":
        combination = " and ".join(sorted(map(str, scene.items)))
    else:
        combination = scene.caption
    digest = hashlib.sha256(combination.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def rows() -> Iterator[Row]:
    """Every drawing, in a fixed order."""
    for index, scene in enumerate(all_scenes()):
        for number in range(DRAWINGS[scene.kind]):
            yield Row(f"/scenes/{index}-{number}.png", scene, number)


def url_list() -> pa.Table:
    """Columns url (relative), caption and split."""
    splits = (HELD_OUT if is_held_out(row.scene) else TRAINING for row in rows())
    values = [(r.path, r.scene.caption, split) for r, split in zip(rows(), splits, strict=True)]
    columns = dict(zip(URL_LIST.names, map(list, zip(*values, strict=True)), strict=True))
    return pa.table(columns, schema=URL_LIST)


def data_digest() -> str:
    """sha256 of the version and of all rows; drawings depend on nothing else."""
    digest = hashlib.sha256(f"scenes {VERSION}".encode())
    for row in url_list().to_pylist():
        digest.update("\0".join(row.values()).encode())
    return digest.hexdigest()


@cache
def _by_path() -> Mapping[str, Row]:
    return {row.path: row for row in rows()}


def find_page(path: str) -> Page | None:
    """The drawing at a path, or None."""
    row = _by_path().get(path)
    if row is None:
        return None
    generator = random.Random(f"{row.scene.caption} {row.number}")
    encoded = io.BytesIO()
    draw(row.scene, generator=generator, side=SIDE).save(encoded, "PNG")
    return "image/png", encoded.getvalue()


def serve(port: int) -> AbstractContextManager[int]:
    """Serve the drawings on the loopback address until the block ends; yields the port.

    Port 0 means any free port. Raises PageServerError if the port is in use.
    """
    return serve_pages(find_page, port=port, name="scenes")
