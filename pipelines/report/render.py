"""Render the report: one HTML file with its images, plots and styles inside."""

import logging
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from pipelines.report.config import ReportConfig
from pipelines.report.inputs import Inputs
from pipelines.report.provenance import data_section, lineage_section, training_section
from pipelines.report.quality import quality_sections

log = logging.getLogger(__name__)

SPELLINGS: Mapping[str, str] = {"clip": "CLIP", "cmmd": "CMMD", "frechet": "Fréchet"}


def render(inputs: Inputs, config: ReportConfig) -> str:
    """The report as HTML. Captions, URLs and everything else from the data are escaped."""
    template = _environment().get_template("report.html")
    html = template.render(
        title=config.title,
        css=Markup(resources.files("pipelines.report").joinpath("report.css").read_text()),
        **quality_sections(inputs, config),
        **training_section(inputs),
        **data_section(inputs),
        **lineage_section(inputs),
    )
    log.info("Rendered the report: %.1f MB", len(html) / 1e6)
    return html


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "words": lambda name: name.replace("_", " "),
        "metric": metric_label,
        "number": number,
        "count": lambda amount: f"{amount:,}",
        "duration": duration,
    }
    environment.filters |= filters
    return environment


def metric_label(name: str) -> str:
    """The readable name of a metric: "prior/clip_score" becomes "Prior: CLIP score"."""
    subject, what = name.replace("_", " ").split("/")
    label = f"{subject.capitalize()}: {what}"
    for word, spelling in SPELLINGS.items():
        label = re.sub(rf"\b{word}\b", spelling, label, flags=re.IGNORECASE)
    return label


def number(value: float) -> str:
    """Three significant digits, with an exponent only for very small and very large values."""
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """The two largest of hours, minutes and seconds."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
