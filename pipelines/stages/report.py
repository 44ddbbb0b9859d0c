"""The stage that writes the report: a run on one HTML page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    Evaluation,
    PairShards,
    PcaBasisFile,
    Report,
    SelectionShards,
    TrainedModel,
    VerdictShards,
)
from pipelines.core.events import Output
from pipelines.core.stage import Artifact, Context, Graph, Stage
from pipelines.report.config import ReportConfig
from pipelines.report.inputs import Inputs, Lineage

__all__ = ["BuildReport", "ReportConfig"]

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class BuildReport(Stage[Report]):
    """Metrics, samples, loss curves, data quality and lineage on one HTML page."""

    kind: ClassVar[str] = "report"
    version: ClassVar[int] = 4  # 4: verdicts of the filter
    artifact: ClassVar[type[Artifact]] = Report

    evaluation: Stage[Evaluation]
    pairs: Stage[PairShards]
    verdicts: Stage[VerdictShards]
    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    pca: Stage[PcaBasisFile]
    clip: Stage[ClipWeights]
    priors: Mapping[str, Stage[TrainedModel]]  # the first drew the images
    decoder: Stage[TrainedModel]
    upsamplers: Mapping[str, Stage[TrainedModel]]  # in the order of their use
    config: ReportConfig

    def run(self, ctx: Context) -> Report:
        """Render in a worker, then publish."""
        # Imported here because matplotlib takes a second, which planning should not.
        from pipelines.report.render import render

        inputs = Inputs(
            evaluation=ctx.load(self.evaluation),
            pairs=ctx.load(self.pairs),
            verdicts=ctx.load(self.verdicts),
            embeddings=ctx.load(self.embeddings),
            selection=ctx.load(self.selection),
            pca=ctx.load(self.pca),
            clip=ctx.load(self.clip),
            priors={name: ctx.load(stage) for name, stage in self.priors.items()},
            decoder=ctx.load(self.decoder),
            upsamplers={name: ctx.load(stage) for name, stage in self.upsamplers.items()},
            lineage=self.lineage(),
        )
        html: str = ctx.call(render, inputs, self.config)
        ctx.folder.write_bytes(REPORT_FILE, html.encode())
        ctx.emit(Output(self.name, REPORT_FILE))
        return Report(ctx.folder, self.config.title)

    def lineage(self) -> tuple[Lineage, ...]:
        """Every stage that this one depends on, in dependency order."""
        stages = Graph(self.dependencies.values()).stages.values()
        return tuple(
            Lineage(stage.name, stage.key, tuple(d.name for d in stage.dependencies.values()))
            for stage in stages
        )
