"""The trainings of the prior, the decoder and the two upsamplers, under Ray Train."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

from pipelines.artifacts import (
    EmbeddingShards,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    TrainedModel,
)
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.data.shard_reader import ShardFiles
from pipelines.stages.initial import InitialWeights, ModelConfig, take_weights
from unclip.config import Config, ConfigError
from unclip.models import ARPriorConfig
from unclip.training import TrainingConfig

if TYPE_CHECKING:
    from pipelines.stages.tasks import ModelTask


@dataclass(frozen=True, kw_only=True)
class LoaderSettings(Config):
    """How far rows are shuffled."""

    tag: ClassVar[str] = "loader"

    shuffle_shards: int  # that are in memory, and mixed, at the same time

    def __post_init__(self) -> None:
        if self.shuffle_shards < 1:
            raise ConfigError(f"shuffle_shards={self.shuffle_shards} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainingSection(TrainingConfig):
    """A section of the configuration that trains: the settings of training, and what is trained."""

    @property
    def training(self) -> TrainingConfig:
        """The settings of training alone."""
        return TrainingConfig(**{f.name: getattr(self, f.name) for f in fields(TrainingConfig)})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps == 0 and not self.has_weights:
            raise ConfigError(
                "steps=0 trains nothing, and there are no weights to take; give 1 or more steps, "
                "or for a model of the cascade init_from"
            )

    @property
    def has_weights(self) -> bool:
        """Whether there are weights before the first step."""
        return False


@dataclass(frozen=True, kw_only=True)
class ModelSection(TrainingSection):
    """The training of a model of the cascade, from random weights or from those of a file."""

    init_from: str | None = None  # path or URL of a saved model to start from; null: random weights

    @property
    def has_weights(self) -> bool:
        """Whether there are weights before the first step."""
        return self.init_from is not None


@dataclass(frozen=True)
class TrainModel(Stage[TrainedModel]):
    """Base of all: a model trained on the selected rows that are not held out."""

    artifact: ClassVar[type[Artifact]] = TrainedModel
    worker_group: ClassVar[bool] = True

    pairs: Stage[PairShards]
    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    model: ModelConfig
    training: TrainingConfig
    loader: LoaderSettings
    initial: InitialWeights | None = field(default=None, kw_only=True)  # None: random ones

    def run(self, ctx: Context) -> TrainedModel:
        """Train to the end, from the last checkpoint where there is one."""
        from pipelines.stages.training import SUMMARY, TrainingJob, train_worker

        embeddings = ctx.load(self.embeddings)
        check_width(self.model, embeddings)
        if self.initial and not self.training.steps:
            parameters = ctx.call(take_weights, self.initial, ctx.folder)
            return TrainedModel(
                ctx.folder,
                parameters=parameters,
                steps=0,
                final_loss=None,
                model=type(self.model).__name__,
            )
        job = TrainingJob(
            stage=self.name,
            task=self.task(ctx),
            training=self.training,
            shuffle_shards=self.loader.shuffle_shards,
            shards=training_shards(ctx.load(self.pairs), embeddings, ctx.load(self.selection)),
            folder=ctx.folder,
            emit=ctx.emit,
        )
        ctx.train(train_worker, {"job": job})
        summary = ctx.folder.read_json(SUMMARY)
        return TrainedModel(
            ctx.folder,
            parameters=summary["parameters"],
            steps=summary["steps"],
            final_loss=summary["final_loss"],
            model=type(self.model).__name__,
        )

    def task(self, ctx: Context) -> "ModelTask":  # noqa: ARG002
        """What the workers train."""
        from pipelines.stages.tasks import ModelTask

        return ModelTask(self.model, preview_seed=self.training.seed, initial=self.initial)


@dataclass(frozen=True)
class TrainPrior(TrainModel):
    """Caption → CLIP image embedding."""

    kind: ClassVar[str] = "prior"


@dataclass(frozen=True)
class TrainARPrior(TrainModel):
    """Caption → the codes of a CLIP image embedding's principal components."""

    kind: ClassVar[str] = "prior"

    model: ARPriorConfig
    pca: Stage[PcaBasisFile]

    def task(self, ctx: Context) -> "ModelTask":
        """With the basis, the buckets' edges and the bins that the training rows decide."""
        from pipelines.stages.calibration import calibrate
        from pipelines.stages.tasks import ARPriorTask

        embeddings, selection = ctx.load(self.embeddings), ctx.load(self.selection)
        pca = ctx.load(self.pca)
        calibration = ctx.call(calibrate, pca, embeddings, selection, self.model.dot_bins)
        return ARPriorTask(self.model, preview_seed=self.training.seed, calibration=calibration)


@dataclass(frozen=True)
class TrainSecondPrior(TrainPrior):
    """A diffusion prior beside the first, to be compared with it."""

    kind: ClassVar[str] = "second_prior"


@dataclass(frozen=True)
class TrainSecondARPrior(TrainARPrior):
    """An autoregressive prior beside the first, to be compared with it."""

    kind: ClassVar[str] = "second_prior"


@dataclass(frozen=True)
class TrainDecoder(TrainModel):
    """CLIP image embedding and caption → small picture."""

    kind: ClassVar[str] = "decoder"


@dataclass(frozen=True)
class TrainUpsampler1(TrainModel):
    """Small picture → middle size."""

    kind: ClassVar[str] = "upsampler_1"


@dataclass(frozen=True)
class TrainUpsampler2(TrainModel):
    """Middle size → full size."""

    kind: ClassVar[str] = "upsampler_2"


def training_shards(
    pairs: PairShards, embeddings: EmbeddingShards, selection: SelectionShards
) -> tuple[ShardFiles, ...]:
    """The shards that hold rows to train on."""
    from pipelines.data.shard_reader import list_shards

    found = list_shards(pairs.folder.url, embeddings.folder.url, selection.folder.url)
    return tuple(files for files in found if files.rows)


def check_width(model: ModelConfig, embeddings: EmbeddingShards) -> None:
    """Raise `ConfigError` where the embeddings are of another CLIP's width than the model's."""
    wanted = getattr(model, "embed_dim", None)
    if wanted is not None and wanted != embeddings.width:
        raise ConfigError(
            f"{type(model).__name__}.embed_dim={wanted}, but the embeddings of "
            f"{embeddings.clip_name} are {embeddings.width} wide; set it to {embeddings.width}"
        )
