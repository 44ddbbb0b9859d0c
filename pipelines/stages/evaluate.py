"""Draw pictures for held-out captions and measure them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    Evaluation,
    PairShards,
    SelectionShards,
    TrainedModel,
)
from pipelines.artifacts.schema import samples
from pipelines.core.events import Metrics, Output
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.core.store import Folder
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.metric import HELD_OUT, TRAINING, Metric

__all__ = ["Evaluate", "EvaluateConfig", "read_metrics"]

METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Evaluate(Stage[Evaluation]):
    """Pictures for held-out and for training captions, and how good they are."""

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 2  # 2: samples have image_norm; decoder/*_over_text
    artifact: ClassVar[type[Artifact]] = Evaluation

    pairs: Stage[PairShards]
    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    clip: Stage[ClipWeights]
    prior: Stage[TrainedModel]
    decoder: Stage[TrainedModel]
    upsampler_1: Stage[TrainedModel]
    upsampler_2: Stage[TrainedModel] | None
    config: EvaluateConfig
    second_prior: Stage[TrainedModel] | None = None  # measured beside the first

    def run(self, ctx: Context) -> Evaluation:
        """Gather the rows, draw shard by shard, then measure all."""
        # Here, because open_clip takes seconds, which a plan should not.
        from pipelines.evaluation.generate import GenerationWorker, Weights
        from pipelines.evaluation.grids import write_grids
        from pipelines.evaluation.rows import Sources, gather

        weights = Weights(
            clip=ctx.load(self.clip),
            prior=ctx.load(self.prior),
            decoder=ctx.load(self.decoder),
            upsampler_1=ctx.load(self.upsampler_1),
            upsampler_2=ctx.load(self.upsampler_2) if self.upsampler_2 else None,
            second_prior=ctx.load(self.second_prior) if self.second_prior else None,
        )
        sources = Sources(
            pairs=ctx.load(self.pairs),
            embeddings=ctx.load(self.embeddings),
            selection=ctx.load(self.selection),
        )
        names: list[str] = ctx.call(gather, sources, self.config, ctx.folder)
        ctx.map_shards(
            GenerationWorker(weights, self.config, ctx.folder),
            {name: name for name in names},
            schema=samples(weights.clip.width),
            unit="shards of captions",
        )
        measured: list[Metric] = ctx.call(measure, ctx.folder, names)
        return self.publish(ctx, measured, ctx.call(write_grids, ctx.folder, names))

    def publish(self, ctx: Context, measured: list[Metric], pictures: list[str]) -> Evaluation:
        """Write the metrics and say what there is to see."""
        records = {m.full_name: m.record() for m in measured}
        ctx.folder.write_json(METRICS_FILE, records)
        values = flat(measured)
        ctx.emit(Metrics(self.name, 0, values))
        for file in (METRICS_FILE, *pictures):
            ctx.emit(Output(self.name, file))
        return Evaluation(ctx.folder, values)


def measure(folder: Folder, names: Sequence[str]) -> list[Metric]:
    """All metrics of both splits."""
    from pipelines.evaluation.metric_suite import MetricSuite
    from pipelines.evaluation.samples import Samples, read_reference

    reference = read_reference(folder)
    measured: list[Metric] = []
    for split in (HELD_OUT, TRAINING):
        rows = Samples.read(folder, names, held_out=split == HELD_OUT)
        measured += MetricSuite(split, rows, reference).measured()
    return measured


def flat(measured: Sequence[Metric]) -> dict[str, float]:
    """Values and baselines by name."""
    values = {m.full_name: m.value for m in measured}
    return values | {f"{m.full_name}_baseline": m.baseline for m in measured}


def read_metrics(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """What metrics.json holds: records by name."""
    records: dict[str, dict[str, Any]] = evaluation.folder.read_json(METRICS_FILE)
    return records
