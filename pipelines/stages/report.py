"""One HTML file that shows what came of a run, and from what."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    Evaluation,
    PairShards,
    PcaBasisFile,
    Report,
    SelectionShards,
    TrainedModel,
)
from pipelines.core.events import Output
from pipelines.core.stage import Artifact, Context, Graph, Stage
from pipelines.report.config import ReportConfig

if TYPE_CHECKING:
    from pipelines.report.content import Lineage

__all__ = ["BuildReport", "ReportConfig"]

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class BuildReport(Stage[Report]):
    """Metrics, samples, curves, data quality and lineage on one page."""

    kind: ClassVar[str] = "report"
    version: ClassVar[int] = 2  # 2: compares two priors, shows cascades of one upsampler
    artifact: ClassVar[type[Artifact]] = Report

    evaluation: Stage[Evaluation]
    downloaded: Stage[PairShards]
    pairs: Stage[PairShards]
    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    pca: Stage[PcaBasisFile]
    clip: Stage[ClipWeights]
    prior: Stage[TrainedModel]
    decoder: Stage[TrainedModel]
    upsampler_1: Stage[TrainedModel]
    upsampler_2: Stage[TrainedModel] | None
    config: ReportConfig
    second_prior: Stage[TrainedModel] | None = None  # shown beside the first

    def run(self, ctx: Context) -> Report:
        """Render in a worker, then publish."""
        # Here, because matplotlib takes a second, which a plan should not.
        from pipelines.report.content import Inputs
        from pipelines.report.render import render

        models = (
            self.prior,
            *([self.second_prior] if self.second_prior else []),
            self.decoder,
            self.upsampler_1,
            *([self.upsampler_2] if self.upsampler_2 else []),
        )
        inputs = Inputs(
            evaluation=ctx.load(self.evaluation),
            downloaded=ctx.load(self.downloaded),
            pairs=ctx.load(self.pairs),
            embeddings=ctx.load(self.embeddings),
            selection=ctx.load(self.selection),
            pca=ctx.load(self.pca),
            clip=ctx.load(self.clip),
            models={stage.name: ctx.load(stage) for stage in models},
        )
        html: str = ctx.call(render, inputs, self.lineage(), self.config)
        ctx.folder.write_bytes(REPORT_FILE, html.encode())
        ctx.emit(Output(self.name, REPORT_FILE))
        return Report(ctx.folder, self.config.title)

    def lineage(self) -> "list[Lineage]":
        """Every stage that this one rests on, in dependency order."""
        from pipelines.report.content import Lineage

        stages = Graph(self.dependencies.values()).stages.values()
        return [
            Lineage(stage.name, stage.key, tuple(d.name for d in stage.dependencies.values()))
            for stage in stages
        ]
