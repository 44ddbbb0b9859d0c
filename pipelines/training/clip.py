"""The frozen CLIP: saves pretrained weights in the store, or trains a small CLIP."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipelines.artifacts import ClipWeights
from pipelines.artifacts.schema import SELECTION, VERDICTS, is_held_out
from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Context, Metadata
from pipelines.core.tables import read_table
from pipelines.data.shard_reader import ShardFiles
from pipelines.embeddings.selection import count_splits, read_splits, verdict
from pipelines.training.cost import CostedTask
from pipelines.training.training_job import TrainingJob
from pipelines.training.worker import train_worker
from unclip.clip.config import ClipArchitecture, ClipConfig
from unclip.clip.frozen import FrozenClip
from unclip.clip.training import build_clip, clip_loss
from unclip.meta_device import build_empty
from unclip.training import Batch, Loss

if TYPE_CHECKING:
    from pipelines.stages.clip import TrainClip

log = logging.getLogger(__name__)

SPLIT = "split"  # subfolder: which rows of each shard are held out


def train_clip(stage: "TrainClip", ctx: Context) -> ClipWeights:
    """Split the pairs as later stages do, train on the rest, and describe the result."""
    pairs, verdicts = ctx.load(stage.pairs), ctx.load(stage.verdicts)
    items = {f"{SPLIT}/{name}": (pairs.url(name), verdicts.url(name)) for name in pairs.shards}
    worker = SplitWorker(stage.held_out_fraction)
    records = ctx.map_shards(worker, items, schema=SELECTION, unit="shards")

    def files(split: str) -> tuple[ShardFiles, ...]:
        counts = {name: records[f"{SPLIT}/{name}"].metadata[split] for name in sorted(pairs.shards)}
        return tuple(
            ShardFiles(
                name=name,
                pairs=pairs.url(name),
                embeddings=None,
                selection=ctx.folder.file(f"{SPLIT}/{name}.parquet"),
                rows=rows,
            )
            for name, rows in counts.items()
            if rows
        )

    job = TrainingJob(
        stage=stage.name,
        task=ClipTask(stage.config.architecture),
        training=stage.config.training,
        shuffle_rows=stage.loader.shuffle_rows,
        resources=ctx.resources,
        shards=files("training"),
        held_out=files("held_out"),
        folder=ctx.folder,
        emit=ctx.emit,
        parallel=stage.parallel,
    )
    task = CostedTask.of_clip(stage.config.architecture)
    job = job.with_flops(task, stage.peak_flops_per_s)
    job.check()
    ctx.train(train_worker, {"job": job})
    return ClipWeights(ctx.folder, **ctx.call(describe, ctx.folder))


def save_pretrained(config: ClipConfig, folder: Folder) -> dict[str, Any]:
    """Load the named weights, publish them in open_clip's own format, and describe them."""
    clip = FrozenClip.from_config(config, device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        clip.save(Path(scratch))
        for path in sorted(Path(scratch).iterdir()):
            folder.publish(path, path.name)
    return describe(folder)


def describe(folder: Folder) -> dict[str, Any]:
    """The metadata of a published CLIP."""
    clip = FrozenClip.load(folder.local(), device=torch.device("cpu"))
    return {
        "name": clip.name,
        "digest": clip.digest,
        "width": clip.width,
        "image_size": clip.image_size,
        "context_length": clip.context_length,
    }


@dataclass(frozen=True)
class SplitWorker:
    """Callable on the URLs of a shard of pairs and of its verdicts."""

    fraction: float

    def __call__(self, item: tuple[str, str], out: ShardWriter) -> Metadata:
        """Writes a row of `SELECTION` for each pair that the filter kept."""
        pairs, verdicts = item
        judged = read_table(verdicts, ["key", "reason"], VERDICTS).to_pylist()
        splits = read_splits(pairs)
        kept = [(row, v["key"]) for row, v in enumerate(judged) if v["reason"] is None]
        rows = [
            verdict(key, row, position, is_held_out(*splits[row], fraction=self.fraction))
            for position, (row, key) in enumerate(kept)
        ]
        out.write(pa.Table.from_pylist(rows, schema=SELECTION))
        return count_splits(rows)


@dataclass(frozen=True)
class ClipTask:
    """A `TrainingTask`: a small CLIP, trained with the contrastive loss."""

    architecture: ClipArchitecture

    @property
    def fields(self) -> tuple[str, ...]:
        """Images and their captions."""
        return ("pixels", "tokens", "keys")

    @property
    def image_size(self) -> int:
        """Side of "pixels"."""
        return self.architecture.image_size

    @property
    def context_length(self) -> int:
        """Length of "tokens"."""
        return self.architecture.text_context_length

    @property
    def loss(self) -> Loss[Any]:
        """The contrastive loss."""
        return clip_loss

    def build(self) -> nn.Module:
        """The untrained model."""
        model: nn.Module = build_clip(self.architecture)
        return model

    def build_empty(self) -> nn.Module:
        """The model of `build` on the meta device; not used, because a CLIP is not sharded."""
        return build_empty(self.build)

    def save(self, model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write the model in open_clip's own format."""
        model.load_state_dict(weights)
        name = f"trained here, {self.architecture.image_size} px, {self.architecture.embed_dim}-d"
        FrozenClip.from_trained(
            model, self.architecture, name=name, device=torch.device("cpu")
        ).save(folder)

    def preview(self, model: nn.Module, batch: Batch, path: Path) -> bool:  # noqa: ARG002
        """A CLIP makes no image."""
        return False
