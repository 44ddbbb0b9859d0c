"""What the report says, gathered from the artifacts as plain values for the template."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    Evaluation,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    TrainedModel,
)
from pipelines.core.store import MANIFEST, Folder
from pipelines.evaluation.grids import first_samples
from pipelines.evaluation.metric import HELD_OUT, TRAINING
from pipelines.report.config import ReportConfig

SPLITS = {TRAINING: "Training split", HELD_OUT: "Held-out split"}
PICTURES = (
    "original",
    "generated",
    "generated_small",
    "generated_middle",
    "from_true_embedding",
    "variations",
)
PRIOR_KINDS = {
    "DiffusionPriorConfig": "diffusion",
    "ARPriorConfig": "autoregressive",
    "KarloPriorConfig": "Karlo",
}
Values = dict[str, Any]


@dataclass(frozen=True)
class Lineage:
    """One stage that the report rests on."""

    stage: str
    key: str
    made_from: tuple[str, ...]  # names of stages


@dataclass(frozen=True)
class Inputs:
    """Every artifact that the report reads."""

    evaluation: Evaluation
    downloaded: PairShards
    pairs: PairShards
    embeddings: EmbeddingShards
    selection: SelectionShards
    pca: PcaBasisFile
    clip: ClipWeights
    models: Mapping[str, TrainedModel]  # by stage


def data_uri(content: bytes) -> str:
    """A PNG as an address that needs no network."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def headline(records: Mapping[str, Values], config: ReportConfig) -> list[Values]:
    """The metrics that the summary shows, those of the held-out split."""
    names = [f"{HELD_OUT}/{name}" for name in config.headline]
    return [records[name] for name in names if name in records]


def metric_rows(records: Mapping[str, Values]) -> list[Values]:
    """One row a metric, with both splits beside each other."""
    rows: dict[str, Values] = {}
    for record in records.values():
        row = rows.setdefault(record["name"], {**record, "splits": {}})
        row["splits"][record["split"]] = record
    return list(rows.values())


def sample_files(evaluation: Evaluation) -> list[str]:
    """The names of the evaluation's shards."""
    files = evaluation.folder.files()
    return [name.removesuffix(".parquet") for name in files if name.endswith(".parquet")]


def sample_rows(evaluation: Evaluation, most: int) -> dict[str, list[Values]]:
    """The first samples of each split, with their pictures as data URIs."""
    names, columns = sample_files(evaluation), ["caption", *PICTURES]
    first = first_samples(evaluation.folder, names, columns, most)
    return {split: [_inline(row) for row in rows] for split, rows in first.items()}


def _inline(row: Values) -> Values:
    pictures = {name: row[name] and data_uri(row[name]) for name in PICTURES[:-1]}
    return {**row, **pictures, "variations": [data_uri(v) for v in row["variations"] or ()]}


def prior_kinds(models: Mapping[str, TrainedModel]) -> dict[str, str]:
    """Subject of metrics → what its prior is called, where there are two to compare."""
    if "second_prior" not in models:
        return {}
    subjects = ("prior", "second_prior")
    kinds = [PRIOR_KINDS.get(models[s].model, s.replace("_", " ")) for s in subjects]
    if kinds[0] == kinds[1]:
        kinds = [f"first {kinds[0]}", f"second {kinds[1]}"]
    return dict(zip(subjects, kinds, strict=True))


def prior_rows(records: Mapping[str, Values], subjects: Sequence[str]) -> list[Values]:
    """One row a metric of priors: by split, the records of each and the best of their values."""
    rows: dict[str, Values] = {}
    for record in records.values():
        subject, _, what = record["name"].partition("/")
        if subject in subjects:
            row = rows.setdefault(what, {**record, "name": what, "splits": {}})
            row["splits"].setdefault(record["split"], {})[subject] = record
    for row in rows.values():
        best = max if row["higher_is_better"] else min
        row["best"] = {
            split: best(record["value"] for record in by_subject.values())
            for split, by_subject in row["splits"].items()
        }
    return list(rows.values())


def model_rows(models: Mapping[str, TrainedModel]) -> list[Values]:
    """One row a trained model."""
    return [
        {
            "name": name,
            "parameters": model.parameters,
            "steps": model.steps,
            "final_loss": model.final_loss,
            "key": key_of(model.folder),
            "duration_s": duration_s(model.folder),
        }
        for name, model in models.items()
    ]


def lineage_rows(lineage: Sequence[Lineage], folders: Mapping[str, Folder]) -> list[Values]:
    """One row a stage: its key, what it was made from, and how long that took."""
    return [
        {
            "stage": one.stage,
            "key": one.key,
            "made_from": one.made_from,
            "duration_s": duration_s(folders[one.stage]) if one.stage in folders else None,
        }
        for one in lineage
    ]


def rejections(counts: Mapping[str, Any]) -> list[Values]:
    """One row a reason, the most frequent first, with examples where there are any."""
    rejected: Mapping[str, int] = counts.get("rejected", {})
    examples: Mapping[str, Sequence[str]] = counts.get("examples", {})
    ordered = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"reason": reason, "count": count, "examples": list(examples.get(reason, ()))}
        for reason, count in ordered
        if count
    ]


def histories(models: Mapping[str, TrainedModel]) -> dict[str, list[Values]]:
    """What was logged of each training; empty where nothing was kept."""
    return {
        name: model.folder.read_json("history.json") if model.folder.exists("history.json") else []
        for name, model in models.items()
    }


def key_of(folder: Folder) -> str:
    """The key of the stage that a folder belongs to."""
    return folder.url.rstrip("/").rsplit("/", 1)[-1]


def duration_s(folder: Folder) -> float | None:
    """How long the stage took, by its manifest."""
    if not folder.exists(MANIFEST):
        return None
    duration: float | None = folder.read_json(MANIFEST).get("duration_s")
    return duration
