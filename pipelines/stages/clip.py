"""The frozen CLIP: a pretrained one, by name or path, or a small one trained here by contrast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from pipelines.artifacts import ClipWeights, PairShards
from pipelines.artifacts.schema import SELECTION, is_held_out
from pipelines.core.stage import Artifact, Context, Metadata, Stage
from pipelines.core.store import Folder
from pipelines.stages.models import LoaderSettings, TrainingSection
from unclip.clip.config import ClipArchitecture, ClipConfig
from unclip.config import Config

SPLIT = "split"


@dataclass(frozen=True, kw_only=True)
class PretrainedClip(Config):
    """Weights from open_clip, by name or path."""

    tag: ClassVar[str] = "pretrained_clip"

    kind: Literal["pretrained"]  # take weights that exist
    source: ClipConfig

    @property
    def width(self) -> int | None:
        """Of its embeddings, where that is known without the weights."""
        return self.source.width


@dataclass(frozen=True, kw_only=True)
class TrainedClip(TrainingSection):
    """A small CLIP, trained on the pairs that are not held out."""

    tag: ClassVar[str] = "trained_clip"

    kind: Literal["trained"]  # train one here
    architecture: ClipArchitecture

    @property
    def width(self) -> int:
        """Of its embeddings."""
        return self.architecture.embed_dim


@dataclass(frozen=True)
class LoadClip(Stage[ClipWeights]):
    """Fetch pretrained weights once, into the store, where every worker finds them."""

    kind: ClassVar[str] = "pretrained_clip"
    artifact: ClassVar[type[Artifact]] = ClipWeights

    config: PretrainedClip

    def digests(self) -> Mapping[str, str]:
        """The content of local weights, so that an exchanged file is noticed."""
        digest = self.config.source.local_digest()
        return {"weights": digest} if digest else {}

    def run(self, ctx: Context) -> ClipWeights:
        """Load and save in a worker, which has torch and perhaps the network."""
        metadata = ctx.call(save_pretrained, self.config.source, ctx.folder)
        return ClipWeights(ctx.folder, **metadata)


@dataclass(frozen=True)
class TrainClip(Stage[ClipWeights]):
    """Train a CLIP by contrast; the held-out split of later stages is held out here too."""

    kind: ClassVar[str] = "trained_clip"
    artifact: ClassVar[type[Artifact]] = ClipWeights
    worker_group: ClassVar[bool] = True

    pairs: Stage[PairShards]
    config: TrainedClip
    held_out_fraction: float
    loader: LoaderSettings

    def run(self, ctx: Context) -> ClipWeights:
        """Split, train, and describe what came out."""
        from pipelines.data.shard_reader import list_shards
        from pipelines.stages.tasks import ClipTask
        from pipelines.stages.training import TrainingJob, train_worker

        pairs = ctx.load(self.pairs)
        items = {f"{SPLIT}/{name}": pairs.folder.file(f"{name}.parquet") for name in pairs.rows}
        worker = SplitWorker(self.held_out_fraction)
        ctx.map_shards(worker, items, schema=SELECTION, unit="shards")
        shards = list_shards(pairs.folder.url, pairs.folder.url, ctx.folder.file(SPLIT))
        job = TrainingJob(
            stage=self.name,
            task=ClipTask(self.config.architecture),
            training=self.config.training,
            shuffle_shards=self.loader.shuffle_shards,
            shards=tuple(files for files in shards if files.rows),
            folder=ctx.folder,
            emit=ctx.emit,
        )
        ctx.train(train_worker, {"job": job})
        return ClipWeights(ctx.folder, **ctx.call(describe, ctx.folder))


@dataclass(frozen=True)
class SplitWorker:
    """Callable on the URL of a pairs shard: all its rows, and which are held out."""

    fraction: float

    def __call__(self, url: str) -> tuple[pa.Table, Metadata]:
        """Returns `SELECTION` rows."""
        import fsspec
        import pyarrow.parquet as pq

        with fsspec.open(url, "rb") as source:
            keys = pq.read_table(source, columns=["key"])["key"].to_pylist()
        held_out = [is_held_out(key, self.fraction) for key in keys]
        columns = {"key": keys, "row": range(len(keys)), "held_out": held_out}
        return pa.table(columns, schema=SELECTION), {"held_out": sum(held_out)}


def save_pretrained(config: ClipConfig, folder: Folder) -> dict[str, Any]:
    """Load the named weights and publish them in this project's format."""
    import tempfile
    from pathlib import Path

    import torch

    from unclip.clip.frozen import FrozenClip

    clip = FrozenClip.from_config(config, device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        clip.save(Path(scratch))
        for path in sorted(Path(scratch).iterdir()):
            folder.publish(path, path.name)
    return describe(folder)


def describe(folder: Folder) -> dict[str, Any]:
    """The facts of a published CLIP."""
    import torch

    from unclip.clip.frozen import FrozenClip

    clip = FrozenClip.load(folder.local(), device=torch.device("cpu"))
    return {
        "name": clip.name,
        "digest": clip.digest,
        "width": clip.width,
        "image_size": clip.image_size,
        "context_length": clip.context_length,
    }
