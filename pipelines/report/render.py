"""Render the report: one HTML file with its images, plots and styles inside."""

import logging
from typing import NamedTuple

from pipelines.report.config import ReportConfig
from pipelines.report.decoder_progress import decoder_progress
from pipelines.report.inputs import Inputs
from pipelines.report.page import data_uri, render_page
from pipelines.report.provenance import data_section, lineage_section, training_section
from pipelines.report.quality import quality_sections
from pipelines.report.study_section import study_section
from pipelines.report.verdict import Brief, in_brief

log = logging.getLogger(__name__)


class Rendered(NamedTuple):
    """The report, and what the end of a run shows of it."""

    html: str
    verdict: Brief
    decoder_progress: bytes | None  # a PNG file


def render(inputs: Inputs, config: ReportConfig) -> Rendered:
    """The report as HTML. Captions, URLs and everything else from the data are escaped."""
    quality, progress = quality_sections(inputs, config), decoder_progress(inputs.decoder)
    html = render_page(
        "report.html",
        title=config.title,
        decoder_progress=progress and data_uri(progress),
        **quality,
        **study_section(inputs),
        **training_section(inputs),
        **data_section(inputs),
        **lineage_section(inputs),
    )
    log.info("Rendered the report: %.1f MB", len(html) / 1e6)
    return Rendered(html, in_brief(quality["findings"]), progress)
