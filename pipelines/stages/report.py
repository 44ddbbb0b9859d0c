"""The stage that writes the report: a run on one HTML page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import (
    PROGRESS_FILE,
    REPORT_FILE,
    ClipWeights,
    DataReport,
    Evaluation,
    Report,
    TrainedModel,
)
from pipelines.core.events import Output
from pipelines.core.graph import Graph
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.report.config import ReportConfig
from pipelines.report.inputs import Inputs, Lineage
from pipelines.stages.study import RunStudy

__all__ = ["BuildReport", "ReportConfig"]


@dataclass(frozen=True)
class BuildReport(Stage[Report]):
    """Metrics, samples, loss curves and lineage on one HTML page; beside it, the data report."""

    kind: ClassVar[str] = "report"
    version: ClassVar[int] = 12  # 11: plots of the health; 12: of losses by timestep
    artifact: ClassVar[type[Artifact]] = Report

    evaluation: Stage[Evaluation]
    data: Stage[DataReport]
    clip: Stage[ClipWeights]
    priors: Mapping[str, Stage[TrainedModel]]  # the first drew the images
    decoder: Stage[TrainedModel]
    upsamplers: Mapping[str, Stage[TrainedModel]]  # in the order of their use
    config: ReportConfig
    study: RunStudy | None = None

    def run(self, ctx: Context) -> Report:
        """Render in a worker, then publish."""
        # Imported here because matplotlib takes a second, which planning should not.
        from pipelines.report.data_page import PAGE_FILE
        from pipelines.report.render import Rendered, render

        inputs = Inputs(
            evaluation=ctx.load(self.evaluation),
            data=ctx.load(self.data),
            clip=ctx.load(self.clip),
            priors={name: ctx.load(stage) for name, stage in self.priors.items()},
            decoder=ctx.load(self.decoder),
            upsamplers={name: ctx.load(stage) for name, stage in self.upsamplers.items()},
            lineage=self.lineage(ctx),
            baselines={n: ctx.load(stage) for n, stage in self.study.baselines.items()}
            if self.study
            else {},
            study=ctx.load(self.study) if self.study else None,
        )
        rendered: Rendered = ctx.call(render, inputs, self.config)
        ctx.folder.write_bytes(REPORT_FILE, rendered.html.encode())
        with inputs.data.folder.open(PAGE_FILE) as page:  # a link needs it in the same folder
            ctx.folder.write_bytes(PAGE_FILE, page.read())
        files = [REPORT_FILE, PAGE_FILE]
        if rendered.decoder_progress:
            ctx.folder.write_bytes(PROGRESS_FILE, rendered.decoder_progress)
            files.append(PROGRESS_FILE)
        for file in files:
            ctx.emit(Output(self.name, file))
        verdict, first_step = rendered.verdict
        return Report(ctx.folder, self.config.title, verdict, first_step)

    def lineage(self, ctx: Context) -> tuple[Lineage, ...]:
        """Every stage that this one depends on, in dependency order."""
        return tuple(
            Lineage(
                stage.name,
                stage.key,
                tuple(d.name for d in stage.dependencies.values()),
                ctx.load(stage).folder,
            )
            for stage in Graph(self.dependencies.values()).stages.values()
        )
