"""The list of scenes: several drawings of each, and combinations that only the held-out rows have.

The drawings are made when they are asked for; a drawing follows from its path alone.
"""

import hashlib
import io
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Literal

import pyarrow as pa

from pipelines.core.page_server import Page, serve_pages
from pipelines.scenes.drawing import draw
from pipelines.scenes.scene import COLOURS, SHAPES, WORDS, Item, Kind, Scene, all_scenes

Split = Literal["train", "held_out"]

VERSION = 1  # a new one for every change of the scenes, of their drawings or of the splits
SIDE = 256  # of a drawing, in pixels

# Drawings of one scene. The kinds with few scenes have more, so that each kind has its share.
DRAWINGS: Mapping[Split, Mapping[Kind, int]] = {
    "train": {"single": 15, "binding": 2, "counting": 8, "text": 5},
    "held_out": {"single": 15, "binding": 1, "counting": 4, "text": 4},
}
EVERY = 6  # one combination in this many is held out

URL_LIST = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("url", "caption", "split")]
)


def split_of(scene: Scene) -> Split:
    """Whether a scene has a combination that is held out.

    Held out are one colour of each shape, in all scenes; with the others, one number of each
    coloured shape; and one colour of each word. Each of the parts occurs in training.
    """
    if scene.lettering is not None:
        at = WORDS.index(scene.lettering.word) + COLOURS.index(scene.lettering.colour)
        return "train" if at % EVERY else "held_out"
    places = [_place(item) for item in scene.items]
    if scene.kind == "counting":
        places.append(places[0] + len(scene.items))  # never again the place of the item itself
    return "train" if all(place % EVERY for place in places) else "held_out"


def _place(item: Item) -> int:
    return SHAPES.index(item.shape) + COLOURS.index(item.colour)


@cache
def rows() -> tuple[tuple[str, str, Split], ...]:
    """All (path on the server, caption, split), in a mixed order that never changes."""
    listed = list(_rows())
    random.Random(VERSION).shuffle(listed)
    return tuple(listed)


def _rows() -> Iterator[tuple[str, str, Split]]:
    for scene in all_scenes():
        split = split_of(scene)
        for number in range(DRAWINGS[split][scene.kind]):
            yield f"/scenes/{slug(scene)}/{number}.png", scene.caption, split


def slug(scene: Scene) -> str:
    """The scene's name in paths, such as "a-red-circle"."""
    return re.sub(r"\W+", "-", scene.caption.lower())


def drawing(scene: Scene, number: int) -> bytes:
    """One drawing as a PNG of SIDE x SIDE pixels. It follows from the scene and the number."""
    # A text as seed gives the same numbers on every machine and in every version of Python.
    generator = random.Random(f"{VERSION}/{number}/{scene.caption}")
    encoded = io.BytesIO()
    draw(scene, generator=generator, side=SIDE).save(encoded, "PNG")
    return encoded.getvalue()


def url_list() -> pa.Table:
    """The list (columns url, caption, split) with URLs relative to the server's address."""
    columns = zip(*rows(), strict=True)
    return pa.table(dict(zip(URL_LIST.names, map(list, columns), strict=True)), schema=URL_LIST)


@cache
def digest() -> str:
    """sha256 of the version, the size and the rows; it stands for the drawings as well."""
    return hashlib.sha256(repr((VERSION, SIDE, rows())).encode()).hexdigest()


@cache
def _drawings() -> Mapping[str, tuple[Scene, int]]:
    """The scene and the number of each path of the list."""
    scenes = {slug(scene): scene for scene in all_scenes()}
    found = {}
    for path, _, _ in rows():
        name, file = path.removeprefix("/scenes/").split("/")
        found[path] = (scenes[name], int(file.removesuffix(".png")))
    return found


def find_page(path: str) -> Page | None:
    """The drawing at a path of the list, or None."""
    found = _drawings().get(path)
    return None if found is None else ("image/png", drawing(*found))


def serve(port: int) -> AbstractContextManager[int]:
    """Serve the drawings on 127.0.0.1 until the block ends; yields the port.

    Port 0 means any free port. Raises PageServerError if the port is in use.
    """
    return serve_pages(find_page, port=port, name="the scenes")
