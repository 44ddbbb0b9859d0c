"""The frozen CLIP: a pretrained one, by name or path, or a small one trained here by contrast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pipelines.artifacts import ClipWeights, PairShards
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.stages.train import LoaderSettings, TrainingSection
from unclip.clip.config import ClipArchitecture, ClipConfig
from unclip.config import Config


@dataclass(frozen=True, kw_only=True)
class PretrainedClip(Config):
    """Weights from open_clip, by name or path."""

    tag: ClassVar[str] = "pretrained_clip"

    kind: Literal["pretrained"]  # take weights that exist
    source: ClipConfig

    @property
    def width(self) -> int | None:
        """Width of its embeddings, where that is known without the weights."""
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

    config: PretrainedClip

    def digests(self) -> Mapping[str, str]:
        """The content of local weights, so that an exchanged file is noticed."""
        digest = self.config.source.local_digest()
        return {"weights": digest} if digest else {}

    def run(self, ctx: Context) -> ClipWeights:
        """Load and save in a worker, which has torch and perhaps the network."""
        from pipelines.training.clip import save_pretrained  # open_clip takes seconds to import

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
        """Split, train, and describe the result."""
        from pipelines.training.clip import train_clip  # open_clip takes seconds to import

        return train_clip(self, ctx)
