"""The report's section on the study, as plain values: tables with pictures, and the sweeps."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from pipelines.artifacts import Evaluation, Study
from pipelines.evaluation.samples import HELD_OUT, first_samples, shards_in
from pipelines.report import plots
from pipelines.report.inputs import Inputs
from pipelines.report.page import data_uri, duration
from pipelines.report.provenance import duration_s
from pipelines.study.draw import IMAGE
from pipelines.study.measure import CLIP_SCORE, COLOUR
from pipelines.study.scenes import SCENES
from pipelines.study.study import CAPTIONS
from pipelines.study.variants import (
    DECODER,
    NO_EMBEDDING,
    SWEEPS,
    TEXT_EMBEDDING,
    TRUE_EMBEDDING,
    Models,
    Settings,
    standard_of,
)

PICTURES = 8  # captions whose images are shown
GROUPS = {
    "source": "Where the image embedding comes from",
    "decoder_guidance": "Guidance scale of the decoder",
    "prior_guidance": "Guidance scale of the prior",
}
SOURCES = {
    NO_EMBEDDING: "the same decoder without an embedding: the caption only",
    TEXT_EMBEDDING: "the caption's CLIP embedding, as if it were an image's",
    TRUE_EMBEDDING: "the original's own embedding",
}
Values = dict[str, Any]


def study_section(inputs: Inputs) -> Values:
    """The tables of the study; empty if the run has none."""
    if inputs.study is None:
        return {"study": None}
    records, judge = inputs.study_figures["variants"], inputs.evaluation.judges[0]
    models = Models(tuple(inputs.priors), tuple(inputs.baselines))
    standard = next(r for r in records if r["name"] == standard_of(models))
    captions = _captions(inputs.evaluation)
    pictures = _pictures(inputs.study, [row["key"] for row in captions])
    return {
        "study": {
            "captions": inputs.study.captions,
            "took": duration(duration_s(inputs.study.folder)),
            "shown": captions,
            "judge": judge,
            "columns": {f"{judge}/kid": "number", COLOUR: "percent", CLIP_SCORE: "number"},
            "groups": {
                title: [_row(r, pictures, standard) for r in records if r["group"] == group]
                for group, title in GROUPS.items()
            },
            "scenes": [
                {**record, "pictures": _scene_pictures(inputs.study, record["kind"])}
                for record in inputs.study_figures["scenes"]
            ],
            "sweeps": Markup(plots.sweeps(_curves(records, judge), f"{judge}: KID × 1000")),
        }
    }


def _row(record: Values, pictures: dict[str, list[str]], standard: Values) -> Values:
    label = record["label"]
    if record["group"] == "source":
        if record["decoder"] != DECODER:
            label = f"baseline {label.replace('_', ' ')}: a decoder trained without embeddings"
        else:
            label = SOURCES.get(label, "the prior" if label == "prior" else f"the prior {label}")
    is_standard = all(record[name] == standard[name] for name in Settings._fields)
    own = {"label": label, "pictures": pictures[record["name"]], "is_standard": is_standard}
    return {**record, **own}


def _curves(records: Sequence[Values], judge: str) -> dict[str, list[plots.Point]]:
    """The points of each sweep: alignment, fidelity, and the scale."""
    return {
        title: [
            plots.Point(
                record["figures"][COLOUR]["value"],
                record["figures"][f"{judge}/kid"],
                record["label"],
            )
            for record in records
            if record["group"] == group
        ]
        for group, title in SWEEPS.items()
    }


def _scene_pictures(study: Study, kind: str) -> list[Values]:
    """The first images of one kind of scenes, with captions."""
    table = study.folder.read_table(f"{SCENES}-{kind}.parquet", ["caption", "image", "is_right"])
    return [
        {**row, "image": data_uri(row["image"])} for row in table.slice(0, PICTURES).to_pylist()
    ]


def _captions(evaluation: Evaluation) -> list[Values]:
    """The first captions with their originals."""
    columns = ["caption", "original"]
    rows = first_samples(evaluation.folder, shards_in(evaluation.folder), columns, PICTURES)
    return [{**row, "original": data_uri(row["original"])} for row in rows[HELD_OUT]]


def _pictures(study: Study, keys: Sequence[str]) -> dict[str, list[str]]:
    """By variant, the images of these keys, in their order."""
    wanted = pa.array(keys, pa.string())
    found: dict[str, dict[str, str]] = {}
    for name in shards_in(study.folder, CAPTIONS):
        table = study.folder.read_table(f"{name}.parquet", ["variant", "key", IMAGE])
        for row in table.filter(pc.is_in(table["key"], wanted)).to_pylist():
            found.setdefault(row["variant"], {})[row["key"]] = data_uri(row[IMAGE])
    return {variant: [by_key[key] for key in keys] for variant, by_key in found.items()}
