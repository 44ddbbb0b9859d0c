"""The inputs of an image command: images, masks and models, checked before a model is loaded."""

import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines.cli.models import ModelSource, open_models
from pipelines.cli.options import ImageRequest
from pipelines.core.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.cli.session import Session

log = logging.getLogger(__name__)

KEY = re.compile(r"[0-9a-f]{20}")  # of a pair, as `schema.pair_key` makes it
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Inputs:
    """The request of an image command, and the models that it names."""

    request: ImageRequest

    @cached_property
    def models(self) -> ModelSource:
        """The project's models, or those of `--models`."""
        return open_models(self.request.models)

    def open_session(self, *required_stages: str) -> "Session":
        """A session, which loads models on first use.

        required_stages: stages of the project whose results are needed besides the models.
        Raises `PipelineError` or `UnclipError` if models or those results are missing, or if a
        sampling setting of the request is wrong.
        """
        sampling = self.models.check(*required_stages)
        from pipelines.cli.session import Session
        from unclip.generation import with_overrides

        with_overrides(sampling, **self.request.sampling)
        return Session(self.request, self.models)

    def read_image(self, name: str) -> Image.Image:
        """An image file, or a pair of the store by its key, as RGB.

        Grey images get three equal channels; transparent parts become white.
        """
        path = Path(name)
        if self.models.project is not None and not path.exists() and KEY.fullmatch(name):
            return _decode(self._read_pair(name), f"the pair {name}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PipelineError(
                f"{name} cannot be read as an image: {error.strerror}. Give the path of an image "
                "file or, for a project, the key (20 hexadecimal digits) of a pair in its store."
            ) from error
        return _decode(content, name)

    def read_mask(self, name: str, image: Image.Image) -> Image.Image:
        """A black and white image of the same size, mode L; white marks where to paint."""
        mask = self.read_image(name)
        if mask.size != image.size:
            raise PipelineError(
                f"The mask {name} has {mask.width}x{mask.height} pixels and the image "
                f"{image.width}x{image.height}; give a mask of the image's size."
            )
        pixels = np.asarray(mask)  # (H, W, 3)
        is_black, is_white = (pixels == 0).all(-1), (pixels == 255).all(-1)
        grey = int((~is_black & ~is_white).sum())
        if grey:
            raise PipelineError(
                f"The mask {name} has {grey} pixels that are neither black nor white. Draw it "
                "without smoothing, white where to paint and black elsewhere, and save it as PNG."
            )
        if not is_white.any():
            raise PipelineError(
                f"The mask {name} is all black, so there is nothing to paint. Make the part to "
                "paint white."
            )
        return mask.convert("L")

    def _read_pair(self, key: str) -> bytes:
        """The encoded image of a downloaded pair."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from pipelines.artifacts import PairShards
        from pipelines.core.scan import scan
        from pipelines.core.tables import ParquetRows

        project = self.models.project
        assert project is not None
        pairs = project.find(["download"]).load(project.graph["download"])
        assert isinstance(pairs, PairShards)
        urls = {name: pairs.url(name) for name in pairs.shards}
        for batch in scan(urls, pa.schema([pairs.schema().field("key")])):
            position = pc.index(batch["key"], key).as_py()
            if position >= 0:
                shard, row = (batch[name][position].as_py() for name in ("shard", "number"))
                log.debug("pair %s is row %d of shard %s", key, row, shard)
                content: bytes = ParquetRows(urls[shard], ["image"]).row(row)["image"]
                return content
        raise PipelineError(
            f"No pair of {pairs.folder.url} has the key {key}, and there is no file of that name."
        )


def _decode(content: bytes, what: str) -> Image.Image:
    from pipelines.data.decode import decode_rgb
    from pipelines.data.url_policy import Refused

    try:
        return decode_rgb(content, max_pixels=MAX_PIXELS)
    except Refused as refused:
        raise PipelineError(
            f"{what} cannot be decoded as an image ({refused}). JPEG, PNG, WebP, GIF, BMP and "
            "TIFF are supported."
        ) from refused
