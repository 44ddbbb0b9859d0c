"""The stage that generates images for held-out and training captions and measures them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    Evaluation,
    PairShards,
    SelectionShards,
    TrainedModel,
)
from pipelines.core.digests import file_digest
from pipelines.core.events import Metrics, Model, Note, Output
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.inputs import Sources, Weights
from unclip.config import ConfigError

if TYPE_CHECKING:
    from pipelines.evaluation.metrics.metric import Measurement

__all__ = ["Evaluate", "EvaluateConfig", "read_metrics"]

METRICS_FILE = "metrics.json"
# Prefixes of other metrics.
SUBJECTS = ("clip", "fidelity", "generated", "decoder", "colour", "pixels")


@dataclass(frozen=True)
class Evaluate(Stage[Evaluation]):
    """Images for held-out and for training captions, and how good they are."""

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 8  # 7: interpolations; 8: precision is descriptive
    artifact: ClassVar[type[Artifact]] = Evaluation

    pairs: Stage[PairShards]
    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    clip: Stage[ClipWeights]
    priors: Mapping[str, Stage[TrainedModel]]  # the first draws the images; all are measured
    decoder: Stage[TrainedModel]
    upsamplers: Mapping[str, Stage[TrainedModel]]  # in the order of their use
    config: EvaluateConfig

    def __post_init__(self) -> None:
        """Raise `ConfigError` without a prior, or if a prior's name clashes with other metrics."""
        super().__post_init__()
        if not self.priors:
            raise ConfigError("evaluate needs a prior to generate images for captions; give one")
        clash = [name for name in self.config.judges if name in SUBJECTS or "/" in name]
        if clash:
            raise ConfigError(
                f"evaluate.judges.{clash[0]} cannot have this name, because other metrics start "
                f"with it. Choose a name without a slash other than {', '.join(SUBJECTS)}."
            )
        subjects = (*SUBJECTS, *self.config.judges)
        taken = [name for name in self.priors if name in subjects or "/" in name]
        if taken:
            raise ConfigError(
                f"priors.{taken[0]} cannot be evaluated under this name: its metrics would be "
                f"called {taken[0]}/cosine and so on. Choose a name without a slash other than "
                f"{', '.join(subjects)}."
            )

    def digests(self) -> Mapping[str, str]:
        """The content of the judges' files of weights."""
        files = {name: judge.weights for name, judge in self.config.judges.items()}
        return {
            f"judges.{name}": file_digest(path)
            for name, path in files.items()
            if path is not None and Path(path).is_file()  # `check` says so if it is none
        }

    def check(self) -> None:
        """Raise `ConfigError` if a judge's file of weights does not exist."""
        for judge in self.config.judges.values():
            judge.check()

    def run(self, ctx: Context) -> Evaluation:
        """Gather the rows, generate shard by shard, measure, and write metrics.json."""
        # Imported here because open_clip takes seconds, which planning should not.
        from pipelines.evaluation.evaluate import evaluate

        sources = Sources(
            pairs=ctx.load(self.pairs),
            embeddings=ctx.load(self.embeddings),
            selection=ctx.load(self.selection),
        )
        weights = self.weights(ctx.load)
        evaluated = evaluate(ctx, sources, weights, self.config)
        records = {m.full_name: m.record() for m in evaluated.measurements}
        ctx.folder.write_json(METRICS_FILE, records)
        values = values_by_name(evaluated.measurements)
        ctx.emit(Metrics(self.name, 0, values))
        for file in (METRICS_FILE, *evaluated.pictures):
            ctx.emit(Output(self.name, file))
        for note in evaluated.notes:
            ctx.emit(Note(self.name, note))
        self._register(ctx, weights, values)
        return Evaluation(ctx.folder, values, list(self.config.judges))

    def _register(self, ctx: Context, weights: Weights, values: Mapping[str, float]) -> None:
        """Offer the cascade to the model registry, by reference to the store."""
        from pipelines.evaluation import generator

        config = self.config
        described = generator.describe_generator(ctx.folder, weights, config.sampling, config.seed)
        ctx.folder.write_json(generator.GENERATOR_FILE, described)
        metric = f"held_out/{next(iter(config.judges))}/kid"
        if metric in values:  # else there were too few captions
            ctx.emit(
                Model(
                    self.name,
                    generator.GENERATOR_FILE,
                    loader=generator.__name__,
                    inputs={"caption": "string"},
                    outputs={"caption": "string", "image": "binary"},
                    params={"seed": config.seed},
                    example={"caption": ["a red heart"]},
                    metric=metric,
                    value=values[metric],
                )
            )

    def weights(self, load: Callable[[Stage[Any]], Any]) -> Weights:
        """The models to evaluate; `load` maps a stage to its artifact."""
        return Weights(
            clip=load(self.clip),
            priors={name: load(stage) for name, stage in self.priors.items()},
            decoder=load(self.decoder),
            upsamplers={name: load(stage) for name, stage in self.upsamplers.items()},
        )


def values_by_name(measurements: "Sequence[Measurement]") -> dict[str, float]:
    """The value of each metric; intervals and baselines are in metrics.json."""
    return {m.full_name: m.value.value for m in measurements}


def read_metrics(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """The content of metrics.json: the record of each measurement by its name."""
    records: dict[str, dict[str, Any]] = evaluation.folder.read_json(METRICS_FILE)
    return records
