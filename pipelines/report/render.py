"""Render the report: one HTML file with its images, plots and styles inside."""

import logging

from pipelines.report.config import ReportConfig
from pipelines.report.inputs import Inputs
from pipelines.report.page import render_page
from pipelines.report.provenance import data_section, lineage_section, training_section
from pipelines.report.quality import quality_sections
from pipelines.report.study_section import study_section

log = logging.getLogger(__name__)


def render(inputs: Inputs, config: ReportConfig) -> str:
    """The report as HTML. Captions, URLs and everything else from the data are escaped."""
    html = render_page(
        "report.html",
        title=config.title,
        **quality_sections(inputs, config),
        **study_section(inputs),
        **training_section(inputs),
        **data_section(inputs),
        **lineage_section(inputs),
    )
    log.info("Rendered the report: %.1f MB", len(html) / 1e6)
    return html
