"""Pictures and masks that a person names: read and checked before any model is loaded."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.cli.common import Project
from pipelines.core.errors import PipelineError
from pipelines.data.decode import decode_rgb
from pipelines.data.url_policy import Refused

KEY = re.compile(r"[0-9a-f]{20}")  # of a pair, as schema.pair_key makes it
MAX_PIXELS = 100_000_000


def read_picture(name: str, project: Project | None) -> Image.Image:
    """A picture file, or a pair of the store by its key, as RGB: grey is spread, alpha on white."""
    path = Path(name)
    if project is not None and not path.exists() and KEY.fullmatch(name):
        return _decoded(_pair(name, project), f"the pair {name}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PipelineError(
            f"{name} is no picture that can be read: {error.strerror}. Give the path of a picture "
            "file, or, of a project, the key (20 hexadecimal digits) of a pair in the store."
        ) from error
    return _decoded(content, name)


def read_mask(name: str, picture: Image.Image, project: Project | None) -> Image.Image:
    """A black and white picture of the same size, mode L: white is where to paint."""
    mask = read_picture(name, project)
    if mask.size != picture.size:
        raise PipelineError(
            f"The mask {name} has {mask.width}x{mask.height} pixels and the picture "
            f"{picture.width}x{picture.height}; give a mask of the picture's size."
        )
    pixels = np.asarray(mask)  # (H, W, 3)
    is_black, is_white = (pixels == 0).all(-1), (pixels == 255).all(-1)
    grey = int((~is_black & ~is_white).sum())
    if grey:
        raise PipelineError(
            f"The mask {name} has {grey} pixels that are neither black nor white. Draw it without "
            "smoothing, white where to paint and black where to keep, and save it as PNG."
        )
    if not is_white.any():
        raise PipelineError(
            f"The mask {name} is all black, so there is nothing to paint; make white what is to "
            "be painted."
        )
    return mask.convert("L")


def _decoded(content: bytes, what: str) -> Image.Image:
    try:
        return decode_rgb(content, max_pixels=MAX_PIXELS)
    except Refused as refused:
        raise PipelineError(
            f"{what} cannot be read as a picture ({refused}). JPEG, PNG, WebP, GIF, BMP and TIFF "
            "can."
        ) from refused


def _pair(key: str, project: Project) -> bytes:
    """The picture of a pair that passed the filter, encoded."""
    import pyarrow.compute as pc

    from pipelines.artifacts import PairShards
    from pipelines.core.stage import load_artifact

    pairs = load_artifact(project.store, project.graph["filter"])
    assert isinstance(pairs, PairShards)
    for shard in pairs.rows:
        row = pc.index(pairs.read(shard, ["key"])["key"], key).as_py()
        if row >= 0:
            content: bytes = pairs.read(shard, ["image"])["image"][row].as_py()
            return content
    raise PipelineError(
        f"No pair of {pairs.folder.url} has the key {key}, and there is no file of that name."
    )
