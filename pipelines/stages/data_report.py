"""The stage that writes the data report: what became of every row of the list."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import (
    DataReport,
    EmbeddingShards,
    ListShards,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    VerdictShards,
)
from pipelines.core.events import Output
from pipelines.core.stage import Artifact, Context, Stage


@dataclass(frozen=True)
class BuildDataReport(Stage[DataReport]):
    """Books, reasons, distributions and examples of all rows, on one HTML page."""

    kind: ClassVar[str] = "data_report"
    version: ClassVar[int] = 2  # 2: pictures.json
    artifact: ClassVar[type[Artifact]] = DataReport

    urls: Stage[ListShards]
    pairs: Stage[PairShards]
    verdicts: Stage[VerdictShards]
    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    pca: Stage[PcaBasisFile]

    def run(self, ctx: Context) -> DataReport:
        """Count and render in a worker, then publish."""
        # Imported here because DuckDB and matplotlib take a second, which planning should not.
        from pipelines.report.data_page import (
            FIGURES_FILE,
            PAGE_FILE,
            PICTURES_FILE,
            make_data_page,
        )
        from pipelines.report.data_tables import Sources

        sources = Sources(
            urls=ctx.load(self.urls),
            pairs=ctx.load(self.pairs),
            verdicts=ctx.load(self.verdicts),
            embeddings=ctx.load(self.embeddings),
            selection=ctx.load(self.selection),
            pca=ctx.load(self.pca),
        )
        page = ctx.call(make_data_page, sources)
        ctx.folder.write_json(FIGURES_FILE, page.figures)
        ctx.folder.write_json(PICTURES_FILE, page.pictures)
        ctx.folder.write_bytes(PAGE_FILE, page.html.encode())
        for file in (FIGURES_FILE, PAGE_FILE):
            ctx.emit(Output(self.name, file))
        return DataReport(ctx.folder)
