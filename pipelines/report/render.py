"""From the artifacts to one HTML file with all it shows inside."""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from pipelines.artifacts import EmbeddingShards
from pipelines.core.store import Folder
from pipelines.evaluation.grids import count_samples
from pipelines.evaluation.metric import HELD_OUT
from pipelines.report import content, plots
from pipelines.report.config import ReportConfig
from pipelines.report.content import Inputs, Lineage

SPELLINGS = {"clip": "CLIP", "cmmd": "CMMD", "frechet": "Fréchet"}
MOST_SHARDS = 64  # of the embeddings, that the histogram reads


def render(inputs: Inputs, lineage: Sequence[Lineage], config: ReportConfig) -> str:
    """The report; whatever comes from the data is escaped."""
    template = _environment().get_template("report.html")
    return template.render(
        title=config.title,
        css=Markup(resources.files("pipelines.report").joinpath("report.css").read_text()),
        splits=content.SPLITS,
        **_evaluated(inputs, config),
        **_trained(inputs),
        **_data(inputs),
        lineage=content.lineage_rows(lineage, _folders(inputs)),
    )


def _evaluated(inputs: Inputs, config: ReportConfig) -> dict[str, Any]:
    evaluation = inputs.evaluation
    records = evaluation.folder.read_json("metrics.json")
    kinds = content.prior_kinds(inputs.models)
    held_out = [record for record in records.values() if record["split"] == HELD_OUT]
    return {
        "headline": content.headline(records, config),
        "metrics": content.metric_rows(records),
        "priors": kinds,
        "prior_metrics": content.prior_rows(records, list(kinds)),
        "beaten": sum(record["beats_baseline"] for record in held_out),
        "total": len(held_out),
        "evaluated": count_samples(evaluation.folder, content.sample_files(evaluation)),
        "samples": content.sample_rows(evaluation, config.samples),
    }


def _trained(inputs: Inputs) -> dict[str, Any]:
    histories = content.histories(inputs.models)
    return {
        "clip": inputs.clip,
        "models": content.model_rows(inputs.models),
        "curves": {
            name: history and Markup(plots.curve(history, name.replace("_", " ")))
            for name, history in histories.items()
        },
    }


def _data(inputs: Inputs) -> dict[str, Any]:
    eigenvalues = inputs.pca.folder.read_table("basis.parquet", ["eigenvalue"])["eigenvalue"]
    similarity = plots.histogram(
        read_similarity(inputs.embeddings), "Similarity of picture and caption", "CLIP cosine"
    )
    return {
        "funnel": _funnel(inputs),
        "download_rejections": content.rejections(inputs.downloaded.counts),
        "filter_rejections": content.rejections(inputs.pairs.counts),
        "selection_rejections": content.rejections(inputs.selection.counts),
        "similarity": Markup(similarity),
        "pca": inputs.pca,
        "explained": Markup(plots.explained(np.array(eigenvalues), inputs.pca.dimensions)),
    }


def _funnel(inputs: Inputs) -> dict[str, int]:
    """How many pairs are left after each stage."""
    downloaded = inputs.downloaded
    rejected = sum(downloaded.counts.get("rejected", {}).values())
    return {
        "Listed": downloaded.counts.get("listed", downloaded.total_rows + rejected),
        "Downloaded": downloaded.total_rows,
        "Kept by the filter": inputs.pairs.total_rows,
        "Selected": inputs.selection.total_rows,
        "For training": inputs.selection.training_rows,
        "Held out": inputs.selection.held_out_rows,
    }


def read_similarity(embeddings: EmbeddingShards) -> np.ndarray:
    """Cosines of picture and caption, of at most `MOST_SHARDS` shards; (N,)."""
    names: Iterable[str] = list(embeddings.rows)[:MOST_SHARDS]
    columns = [embeddings.read(name, ["similarity"])["similarity"].to_numpy() for name in names]
    return np.concatenate([np.empty(0, np.float32), *columns])


def _folders(inputs: Inputs) -> Mapping[str, Folder]:
    """Stage → folder, of what the report read; a folder's path ends in "stage/key"."""
    artifacts = (
        inputs.evaluation,
        inputs.downloaded,
        inputs.pairs,
        inputs.embeddings,
        inputs.selection,
        inputs.pca,
        inputs.clip,
        *inputs.models.values(),
    )
    return {a.folder.url.rstrip("/").split("/")[-2]: a.folder for a in artifacts}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "words": lambda name: name.replace("_", " "),
        "metric": metric_label,
        "number": number,
        "count": lambda amount: f"{amount:,}",
        "duration": duration,
    }
    return environment


def metric_label(name: str) -> str:
    """The name of a metric as people write it: "prior/clip_score" as "Prior: CLIP score"."""
    subject, what = name.replace("_", " ").split("/")
    label = f"{subject.capitalize()}: {what}"
    for written, meant in SPELLINGS.items():
        label = re.sub(rf"\b{written}\b", meant, label, flags=re.IGNORECASE)
    return label


def number(value: float) -> str:
    """Three significant digits, without an exponent where it can be helped."""
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds, as many as are needed."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
