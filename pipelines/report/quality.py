"""The report's sections on quality, as plain values: metrics, the priors compared, and samples."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.artifacts import INTERPOLATION_FILE, Evaluation
from pipelines.evaluation.nearest import NEAREST, NEAREST_FILE
from pipelines.evaluation.samples import (
    HELD_OUT,
    TRAINING,
    count_samples,
    first_samples,
    shards_in,
)
from pipelines.report.config import ReportConfig
from pipelines.report.findings import Evidence
from pipelines.report.inputs import Inputs
from pipelines.report.page import data_uri
from pipelines.report.study_findings import study_findings
from pipelines.report.verdict import findings

SPLITS = {TRAINING: "Training split", HELD_OUT: "Held-out split"}
STORED = ("original", "generated", "generated_small", "from_true_embedding")  # one per row
IMAGES = (*STORED, "nearest")
NO_NEAREST = dict.fromkeys(NEAREST.names)  # of samples that were not compared
IMAGE_LISTS = ("generated_middle", "variations")
Records = Mapping[str, dict[str, Any]]
Values = dict[str, Any]


def quality_sections(inputs: Inputs, config: ReportConfig) -> Values:
    """The verdict, metrics, priors, samples, interpolations and the cascade."""
    evaluation = inputs.evaluation
    records: Records = evaluation.folder.read_json("metrics.json")
    judge, prior = evaluation.judges[0], next(iter(inputs.priors))
    components = inputs.data_figures["components"]
    evidence = Evidence(
        records,
        judge=judge,
        prior=prior,
        components=components,
        steps=inputs.steps,
        near_duplicates=near_duplicates(inputs.data_figures),
    )
    studied = inputs.study_figures["variants"]
    return {
        "splits": SPLITS,
        "headline": headline(records, config.headline, prior=prior),
        "metrics": {
            "By judges that had no part in training": metric_rows(records, independent=True),
            "By the CLIP that conditions the models": metric_rows(records, independent=False),
        },
        "priors": {
            name: prior.model.removesuffix("_prior") for name, prior in inputs.priors.items()
        },
        "prior_metrics": prior_rows(records, list(inputs.priors)),
        "findings": findings(
            evidence, study_findings(studied, judge=judge, prior=prior) if studied else ()
        ),
        "held_out_pairs": inputs.data_figures["splits"]["held_out"],
        "evaluated": count_samples(evaluation.folder, shards_in(evaluation.folder)),
        "samples": sample_rows(evaluation, config.samples),
        "interpolation": interpolation(evaluation),
        "cascade": ["decoder", *inputs.upsamplers],
    }


def near_duplicates(figures: Values) -> float:
    """The share of the embedded pairs that the selection dropped as near duplicates."""
    dropped = figures["reasons"]["select"].get("near_duplicate", 0)
    kept = {step["stage"]: step["kept"] for step in figures["steps"]}
    return float(dropped / max(kept["filter"], 1))


def headline(records: Records, names: Sequence[str], *, prior: str) -> list[Values]:
    """Those of the named metrics that were measured, on the held-out split.

    prior: the name of the first prior, to which "prior/…" refers if no prior is named "prior".
    """
    full_names = [f"{HELD_OUT}/{name}" for name in names]
    renamed = [name.replace("/prior/", f"/{prior}/") for name in full_names]
    found = [
        name if name in records else other for name, other in zip(full_names, renamed, strict=True)
    ]
    return [records[name] for name in found if name in records]


def metric_rows(records: Records, *, independent: bool) -> list[Values]:
    """One row for each independent or other metric, with the records of both splits."""
    rows: dict[str, Values] = {}
    for record in records.values():
        if record["independent"] is not independent:
            continue
        row = rows.setdefault(record["name"], {**record, "splits": {}})
        row["splits"][record["split"]] = record
    return list(rows.values())


def prior_rows(records: Records, priors: Sequence[str]) -> list[Values]:
    """One row for each metric of priors: by split, the record of each prior and the best value."""
    rows: dict[str, Values] = {}
    for record in records.values():
        prior, _, name = record["name"].partition("/")
        if prior in priors:
            row = rows.setdefault(name, {**record, "name": name, "splits": {}})
            row["splits"].setdefault(record["split"], {})[prior] = record
    for row in rows.values():
        best = max if row["higher_is_better"] else min
        row["best"] = {
            split: best(record["value"]["value"] for record in by_prior.values())
            for split, by_prior in row["splits"].items()
        }
    return list(rows.values())


def sample_rows(evaluation: Evaluation, limit: int) -> dict[str, list[Values]]:
    """By split, the first samples with their images as data URIs, at most `limit`."""
    columns = ["caption", *STORED, *IMAGE_LISTS]
    first = first_samples(evaluation.folder, shards_in(evaluation.folder), columns, limit)
    nearest = {row["key"]: row for row in evaluation.folder.read_table(NEAREST_FILE).to_pylist()}
    return {
        split: [_inline({**NO_NEAREST, **row, **nearest.get(row["key"], {})}) for row in rows]
        for split, rows in first.items()
    }


def interpolation(evaluation: Evaluation) -> str:
    """The transitions between held-out images, as a data URI."""
    with evaluation.folder.open(INTERPOLATION_FILE) as file:
        return data_uri(file.read())


def _inline(row: Values) -> Values:
    images = {name: row[name] and data_uri(row[name]) for name in IMAGES}
    lists = {name: [data_uri(image) for image in row[name] or ()] for name in IMAGE_LISTS}
    sizes = [images["generated_small"], *lists["generated_middle"], images["generated"]]
    return {**row, **images, **lists, "sizes": sizes}
