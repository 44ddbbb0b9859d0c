"""Features of images by every judge: of the samples, and of real images to compare them with."""

# B images, R reference rows, D features of a judge

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from pipelines.artifacts.schema import features_of, reference
from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.data.pixels import decode_pixels
from pipelines.evaluation.rows import input_file
from unclip.judges import JudgeConfig
from unclip.judges.judge import Judge

log = logging.getLogger(__name__)

# Real images as a measure of distances: how many times smaller they are made, and enlarged again.
BLURRED = {"blurred_2": 2, "blurred_4": 4}
JUDGED = ("original", "generated", "untrained", "from_true_embedding", *BLURRED)


@dataclass(frozen=True)
class Judges:
    """The judges by name; loaded once per process."""

    configs: Mapping[str, JudgeConfig]

    def columns(self, name: str, images: Sequence[Image.Image]) -> dict[str, Any]:
        """The features of a column of images, one column for each judge."""
        return {
            features_of(name, judge): list(loaded.features(images).numpy())
            for judge, loaded in self.loaded.items()
        }

    @cached_property
    def loaded(self) -> dict[str, Judge]:
        """On the GPU if the worker has one. Raises `ConfigError` for weights that do not fit."""
        from unclip.judges.networks import load_judge  # timm takes seconds to import

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return {name: load_judge(config, device) for name, config in self.configs.items()}


def blurred(image: Image.Image, times: int) -> Image.Image:
    """A square image without its fine detail."""
    side = max(image.width // times, 1)
    small = image.resize((side, side), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class ReferenceWorker:
    """Callable on the name of a shard of real training images: makes its table."""

    judges: Judges
    image_size: int  # of the samples
    width: int  # of the CLIP embeddings
    folder: Folder  # of the stage, which holds the inputs of the shards

    def __call__(self, name: str, out: ShardWriter) -> Metadata:
        """Writes one row for each input row (`schema.reference`)."""
        rows = self.folder.read_table(input_file(name)).to_pylist()
        images = [Image.fromarray(decode_pixels(row["image"], self.image_size)) for row in rows]
        columns = {
            "key": [row["key"] for row in rows],
            "image_embeds": [row["image_embeds"] for row in rows],
            **self.judges.columns("original", images),
        }
        out.write(pa.table(columns, schema=reference(self.width, tuple(self.judges.configs))))
        return {}
