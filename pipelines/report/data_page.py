"""The data report: figures of all rows, and a page about them whose size they do not change."""

import logging
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from markupsafe import Markup

from pipelines.data.out_of_core import Budget, scratch_database
from pipelines.report import data_examples, data_figures, distributions, plots
from pipelines.report.data_tables import Sources, load_tables
from pipelines.report.page import render_page

log = logging.getLogger(__name__)

PAGE_FILE = "data.html"
FIGURES_FILE = "data.json"
PICTURES_FILE = "pictures.json"
TABLES = {"download": "outcomes", "filter": "verdicts", "select": "selection"}
MAX_REASONS = 30  # of a stage, in the tables of the page
MAX_LANGUAGES = 12

Values = dict[str, Any]


@dataclass(frozen=True)
class DataPage:
    """The page, and the figures and pictures that it shows (JSON-able)."""

    html: str
    figures: Values
    pictures: Values


def make_data_page(sources: Sources) -> DataPage:
    """Count, choose examples and render. Memory does not grow with the number of rows."""
    with scratch_database(Budget.of_worker()) as database:
        load_tables(database, sources)
        figures = find_figures(database, sources)
        pictures = data_examples.find_pictures(database, sources, figures["reasons"])
    html = render_page("data.html", pictures=pictures, **page_values(figures))
    log.info("Rendered the data report: %.1f MB", len(html) / 1e6)
    return DataPage(html, figures, pictures)


def find_figures(database: duckdb.DuckDBPyConnection, sources: Sources) -> Values:
    """All figures, by the section of the page."""
    similarity = distributions.describe_similarity(database, sources.embeddings)
    repeated = {"download": data_figures.repeated_rows(sources)}
    reasons = {
        stage: data_figures.count_reasons(database, table, repeated.get(stage, 0))
        for stage, table in TABLES.items()
    }
    return {
        "steps": data_figures.count_steps(database, sources, similarity["rows"]),
        "splits": data_figures.count_splits(sources),
        "reasons": reasons,
        "failures": data_examples.find_failures(database, sources, reasons["download"]),
        "hosts": data_figures.count_hosts(database),
        "pairs": distributions.describe_pairs(database),
        "similarity": similarity,
        "languages": distributions.count_languages(database),
        "columns": distributions.describe_columns(database, sources.pairs.columns),
        "components": data_figures.describe_components(sources.pca),
    }


def page_values(figures: Values) -> Values:
    """What the template shows: the figures, with plots, shares and shortened text."""
    sides, ratios, chars = figures["pairs"].values()
    counts = figures["steps"][-1]
    return {
        **figures,
        "total": counts["rows"],
        "stages": funnel_rows(figures),
        "reason_rows": {s: reason_rows(r) for s, r in figures["reasons"].items()},
        "language_rows": language_rows(figures["languages"]),
        "column_rows": {n: column_row(c) for n, c in figures["columns"].items()},
        "size_plots": [
            _plot(sides, "Shorter side as downloaded", "pixels"),
            _plot(ratios, "Aspect ratio as downloaded", "width / height"),
            _plot(chars, "Length of captions", "characters"),
        ],
        "similarity_plot": similarity_plot(figures),
        "explained": explained_plot(figures),
    }


def similarity_plot(figures: Values) -> Markup:
    """The cosines of image and caption."""
    title = "Similarity of image and caption"
    return _plot(figures["similarity"]["histogram"], title, "CLIP cosine")


def explained_plot(figures: Values) -> Markup:
    """The variance that the first principal components keep."""
    components = figures["components"]
    return Markup(plots.explained(np.array(components["eigenvalues"]), components["dimensions"]))


def funnel_rows(figures: Values) -> list[Values]:
    """What is left after each stage, as a count and a share of the list."""
    steps, splits = figures["steps"], figures["splits"]
    by_stage = {step["stage"]: step["kept"] for step in steps}
    rows = {
        "Listed": steps[-1]["rows"],
        "Downloaded": by_stage["download"],
        "Kept by the filter": by_stage["filter"],
        "Selected": by_stage["select"],
        "For training": splits["training"],
        "Held out": splits["held_out"],
    }
    total = max(steps[-1]["rows"], 1)
    return [{"name": name, "count": n, "share": n / total} for name, n in rows.items()]


def reason_rows(reasons: dict[str, int]) -> list[Values]:
    """The most frequent reasons with their shares of the rejected rows; the others in one row."""
    total = sum(reasons.values())
    rows = list(reasons.items())
    others = sum(count for _, count in rows[MAX_REASONS:])
    shown = rows[:MAX_REASONS] + ([("other reasons", others)] if others else [])
    return [{"reason": r, "count": n, "share": n / total} for r, n in shown]


def language_rows(languages: Values) -> list[Values]:
    """The most frequent languages with their shares of the sample, then what is left."""
    counts = list(languages["counts"].items())
    others = sum(count for _, count in counts[MAX_LANGUAGES:])
    rows = [*counts[:MAX_LANGUAGES], ("other", others), ("uncertain", languages["uncertain"])]
    total = max(languages["sample"], 1)
    return [{"language": code, "count": n, "share": n / total} for code, n in rows if n]


def column_row(column: Values) -> Values:
    """One column of the list, with a plot of numbers or the shares of texts."""
    if column["kind"] == "number":
        return {**column, "plot": _plot(column["histogram"], "", "value")}
    total = max(column["rows"], 1)
    top = [{"value": value, "count": n, "share": n / total} for value, n in column["top"].items()]
    return {**column, "top": top}


def _plot(histogram: Values, title: str, label: str) -> Markup:
    return Markup(plots.histogram(histogram["edges"], histogram["counts"], title, label))
