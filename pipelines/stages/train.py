"""The training of any model of the cascade, under Ray Train."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    TrainedModel,
)
from pipelines.core.folder import Folder
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.core.store import Manifest
from pipelines.training.initial_weights import InitialWeights, check_weights, weights_digest
from unclip.config import Config, ConfigError, not_in_key
from unclip.training import Parallel, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class LoaderSettings(Config):
    """How well rows are shuffled."""

    tag: ClassVar[str] = "loader"

    shuffle_rows: int  # rows that each logical rank has in memory and mixes at the same time

    def __post_init__(self) -> None:
        if self.shuffle_rows < 1:
            raise ConfigError(f"shuffle_rows={self.shuffle_rows} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainingSection(TrainingConfig):
    """A section of the configuration that trains something."""

    @property
    def training(self) -> TrainingConfig:
        """The training settings without those of the section."""
        return TrainingConfig(**{f.name: getattr(self, f.name) for f in fields(TrainingConfig)})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps == 0 and not self.has_weights:
            raise ConfigError(
                "steps=0 trains nothing, and there are no weights to start from; give 1 or more "
                "steps or, for a model of the cascade, init_from"
            )

    @property
    def has_weights(self) -> bool:
        """Whether there are weights before the first step."""
        return False


@dataclass(frozen=True)
class TrainModel(Stage[TrainedModel]):
    """A model trained on the selected rows that are not held out."""

    kind: ClassVar[str] = "train_model"
    artifact: ClassVar[type[Artifact]] = TrainedModel
    worker_group: ClassVar[bool] = True

    pairs: Stage[PairShards]
    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    model: Config  # of a registered kind
    training: TrainingConfig
    loader: LoaderSettings
    init_from: str | None = not_in_key(None)  # URL of weights; the key has their digest instead
    pca: Stage[PcaBasisFile] | None = None  # for a kind that is calibrated on the training rows
    clip: Stage[ClipWeights] | None = None  # for a model that reads captions with the CLIP's tower
    parallel: Parallel = not_in_key(Parallel())
    peak_flops_per_s: float | None = not_in_key(None)  # of a GPU; for the curve of utilisation

    def digests(self) -> Mapping[str, str]:
        """The content of the weights that the training starts from."""
        return {"init_from": self.initial.sha256} if self.initial else {}

    @property
    def initial(self) -> InitialWeights | None:
        """The weights before the first step; None for random ones."""
        if self.init_from is None:
            return None
        sha256 = weights_digest(self.init_from, stage=self.name)
        return InitialWeights(url=self.init_from, sha256=sha256)

    def check(self) -> None:
        """Raise `InitialWeightsError` if `init_from` has no weights of this model."""
        if self.init_from is not None:
            check_weights(self.init_from, self.model, stage=self.name)

    def continues(self, earlier: Iterable[Manifest]) -> Manifest | None:
        """The longest shorter training with otherwise equal settings.

        None if there is none, or if the schedule is not constant and so depends on `steps`.
        """
        if self.training.lr_schedule != "constant":
            return None
        own = without_steps(self.description)
        shorter = {
            manifest.metadata["steps"]: manifest
            for manifest in reversed(list(earlier))
            if without_steps(manifest.description) == own
            and 0 < manifest.metadata.get("steps", 0) < self.training.steps
        }
        return shorter[max(shorter)] if shorter else None

    def run(self, ctx: Context) -> TrainedModel:
        """Train to the end, from the last checkpoint if there is one."""
        from pipelines.training.job import run_training  # Ray Train takes seconds to import

        return run_training(self, ctx)

    def start_folder(self, ctx: Context) -> Folder | None:
        """The folder of the shorter training that this one continues, if there is one."""
        manifest = self.continues(ctx.earlier())
        return ctx.folder_of(manifest) if manifest else None


def without_steps(description: Mapping[str, Any]) -> dict[str, Any]:
    """A training's description without its number of steps."""
    training = {k: v for k, v in description.get("training", {}).items() if k != "steps"}
    return {**description, "training": training}
