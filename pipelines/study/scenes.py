"""Probe the models with scenes that a program draws and checks: colours, numbers, places, words."""

# B scenes

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.evaluation.images import encode_png
from pipelines.evaluation.metrics.metric import Figure, weights_of
from pipelines.evaluation.model_worker import row_generator
from pipelines.evaluation.rows import batches
from pipelines.scenes.checker import check
from pipelines.scenes.dataset import split_of
from pipelines.scenes.drawing import draw
from pipelines.scenes.scene import KINDS, Scene, all_scenes
from pipelines.study.config import SceneProbe
from pipelines.study.draw import DrawWorker
from unclip.metrics import mean_of
from unclip.output import to_images

SCENES = "scenes"  # kind of shards
MIN_SIDE = 64  # pixels that the checker needs
# What the checker says of each image; null where a scene has no such property.
PARTS = ("has_colours", "has_shapes", "has_binding", "has_count", "has_relation", "has_text")
SCHEMA = pa.schema(
    [
        pa.field("caption", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # PNG, at the cascade's final size
        pa.field("is_right", pa.bool_(), nullable=False),
        pa.field("by_chance", pa.bool_(), nullable=False),  # whether it shows another scene
        pa.field("drawn", pa.bool_(), nullable=False),  # whether the program's drawing is right
        *(pa.field(part, pa.bool_()) for part in PARTS),
    ]
)


def probed(probe: SceneProbe) -> dict[str, tuple[Scene, ...]]:
    """By the name of a shard, the scenes of one kind: held-out ones, in a random order."""
    found = {}
    for kind in KINDS:
        scenes = [
            scene for scene in all_scenes() if scene.kind == kind and split_of(scene) == "held_out"
        ]
        random.Random(kind).shuffle(scenes)
        found[f"{SCENES}-{kind}"] = tuple(scenes[: probe.per_kind])
    return found


@dataclass(frozen=True)
class SceneWorker:
    """Callable on scenes: makes their table."""

    models: DrawWorker
    batch_size: int

    def __call__(self, scenes: Sequence[Scene], out: ShardWriter) -> Metadata:
        """Writes one row for each scene (`SCHEMA`)."""
        for some in batches(scenes, self.batch_size):
            images = self.images([scene.caption for scene in some])
            others = [*some[1:], some[0]]
            rows = [self.row(*each) for each in zip(some, images, others, strict=True)]
            out.write(pa.Table.from_pylist(rows, schema=SCHEMA))
        return {}

    def images(self, captions: Sequence[str]) -> list[Image.Image]:
        """What the models draw."""
        seed = self.models.config.seed
        noise: list[torch.Generator] = [row_generator(seed, text, "scene") for text in captions]
        return to_images(self.models.pipeline.generate(captions, generator=noise).pixels[-1])

    def row(self, scene: Scene, image: Image.Image, other: Scene) -> dict[str, Any]:
        """What the checker says of an image, and of the program's own drawing of the scene."""
        side = max(image.width, MIN_SIDE)
        enlarged = image.resize((side, side), Image.Resampling.BICUBIC)
        checked = check(enlarged, scene)
        drawing = draw(scene, generator=random.Random(scene.caption), side=side)
        return {
            "caption": scene.caption,
            "image": encode_png(image),
            "is_right": checked.is_right,
            "by_chance": check(enlarged, other).is_right,
            "drawn": check(drawing, scene).is_right,
            **{part: getattr(checked, part) for part in PARTS},
        }


def scene_records(folder: Folder, probe: SceneProbe) -> list[dict[str, Any]]:
    """For each kind of scenes: how many, and the shares that are right, with intervals."""
    return [_record(name, folder.read_table(f"{name}.parquet")) for name in probed(probe)]


def _record(name: str, table: pa.Table) -> dict[str, Any]:
    rows = table.to_pylist()
    shares = dict(_shares(rows))
    weights = weights_of(len(rows))
    return {
        "kind": name.removeprefix(f"{SCENES}-"),
        "scenes": len(rows),
        "drawn": sum(row["drawn"] for row in rows) / len(rows),
        "by_chance": sum(row["by_chance"] for row in rows) / len(rows),
        "shares": {
            part: Figure.of(mean_of(torch.tensor(found))(weights))._asdict()
            for part, found in shares.items()
        },
    }


def _shares(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[float]]]:
    """Each property that the scenes have, as 0 or 1 for each row."""
    for part in ("is_right", *PARTS):
        values = [row[part] for row in rows]
        if None not in values:
            yield part, [float(value) for value in values]
