"""The frozen CLIP: a pretrained one, by name or path, or a small one trained here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pipelines.artifacts import ClipWeights, PairShards, VerdictShards
from pipelines.core.digests import file_digest
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.stages.train import LoaderSettings, TrainingSection
from unclip.clip.config import ClipArchitecture, ClipConfig
from unclip.config import Config, not_in_key
from unclip.training import Parallel


@dataclass(frozen=True, kw_only=True)
class PretrainedClip(Config):
    """Weights from open_clip, by name or path."""

    tag: ClassVar[str] = "pretrained_clip"

    kind: Literal["pretrained"]  # use existing weights
    source: ClipConfig

    @property
    def width(self) -> int | None:
        """Width of its embeddings; None if only the weights tell."""
        return self.source.width


@dataclass(frozen=True, kw_only=True)
class TrainedClip(TrainingSection):
    """A small CLIP, trained on the pairs that are not held out."""

    tag: ClassVar[str] = "trained_clip"

    kind: Literal["trained"]  # train one here
    architecture: ClipArchitecture

    @property
    def width(self) -> int:
        """Width of its embeddings."""
        return self.architecture.embed_dim


@dataclass(frozen=True)
class LoadClip(Stage[ClipWeights]):
    """Fetch pretrained weights once, into the store, where every worker finds them."""

    kind: ClassVar[str] = "pretrained_clip"
    artifact: ClassVar[type[Artifact]] = ClipWeights

    config: PretrainedClip = not_in_key()  # the digests identify the model and its weights

    def digests(self) -> Mapping[str, str]:
        """Names of public models and weights; of local files the content, whatever their path."""
        source = self.config.source
        files = source.local_files()
        digests = {name: file_digest(str(path)) for name, path in files.items()}
        named = {"model": source.model, "weights": source.pretrained or source.model}
        return digests if "config" in files else {**named, **digests}

    def check(self) -> None:
        """Raise `ConfigError` if the weights or the model's name cannot be used."""
        self.config.source.check()

    def run(self, ctx: Context) -> ClipWeights:
        """Load and save in a worker, which has torch and perhaps the network."""
        from pipelines.training.clip import save_pretrained  # open_clip takes seconds to import

        metadata = ctx.call(save_pretrained, self.config.source, ctx.folder)
        return ClipWeights(ctx.folder, **metadata)


@dataclass(frozen=True)
class TrainClip(Stage[ClipWeights]):
    """Train a CLIP with the contrastive loss; leave out the held-out split of later stages."""

    kind: ClassVar[str] = "trained_clip"
    version: ClassVar[int] = 2  # 2: split by the image's bytes
    artifact: ClassVar[type[Artifact]] = ClipWeights
    worker_group: ClassVar[bool] = True

    pairs: Stage[PairShards]
    verdicts: Stage[VerdictShards]
    config: TrainedClip
    held_out_fraction: float
    loader: LoaderSettings
    parallel: Parallel = not_in_key(Parallel())
    peak_flops_per_s: float | None = not_in_key(None)  # of a GPU; for the curve of utilisation

    def run(self, ctx: Context) -> ClipWeights:
        """Split, train, and describe the result."""
        from pipelines.training.clip import train_clip  # open_clip takes seconds to import

        return train_clip(self, ctx)
