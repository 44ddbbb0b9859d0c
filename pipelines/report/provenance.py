"""The sections of the report on how the models were made: training, data and lineage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipelines.artifacts import EmbeddingShards, TrainedModel
from pipelines.core.folder import MANIFEST, Folder
from pipelines.report import plots
from pipelines.report.inputs import Inputs

MAX_SHARDS = 64  # shards of embeddings that the histogram of similarities reads
HISTORY_FILE = "history.json"
Values = dict[str, Any]


def training_section(inputs: Inputs) -> Values:
    """The trained models, their loss curves and the CLIP that they read."""
    histories = {name: _history(model) for name, model in inputs.models.items()}
    return {
        "clip": inputs.clip,
        "models": [_model_row(name, model) for name, model in inputs.models.items()],
        "curves": {
            name: history and Markup(plots.curve(history, name.replace("_", " ")))
            for name, history in histories.items()
        },
    }


def _model_row(name: str, model: TrainedModel) -> Values:
    return {
        "name": name,
        "parameters": model.parameters,
        "steps": model.steps,
        "final_loss": model.final_loss,
        "key": model.folder.url.rstrip("/").rsplit("/", 1)[-1],
        "duration_s": duration_s(model.folder),
    }


def _history(model: TrainedModel) -> list[Values]:
    """The values logged during the training; empty if there is no log."""
    if not model.folder.exists(HISTORY_FILE):
        return []
    history: list[Values] = model.folder.read_json(HISTORY_FILE)
    return history


def data_section(inputs: Inputs) -> Values:
    """How many pairs each stage kept and rejected, and how their embeddings are distributed."""
    eigenvalues = inputs.pca.folder.read_table("basis.parquet", ["eigenvalue"])["eigenvalue"]
    similarity = plots.histogram(
        read_similarity(inputs.embeddings), "Similarity of image and caption", "CLIP cosine"
    )
    return {
        "funnel": _funnel(inputs),
        "download_rejections": rejections(inputs.pairs.counts),
        "filter_rejections": rejections(inputs.verdicts.counts),
        "selection_rejections": rejections(inputs.selection.counts),
        "similarity": Markup(similarity),
        "pca": inputs.pca,
        "explained": Markup(plots.explained(np.array(eigenvalues), inputs.pca.dimensions)),
    }


def _funnel(inputs: Inputs) -> dict[str, int]:
    """How many pairs are left after each stage."""
    return {
        "Listed": inputs.pairs.counts["listed"],
        "Downloaded": inputs.pairs.total_rows,
        "Kept by the filter": inputs.verdicts.counts["kept"],
        "Selected": inputs.selection.training_rows + inputs.selection.held_out_rows,
        "For training": inputs.selection.training_rows,
        "Held out": inputs.selection.held_out_rows,
    }


def rejections(counts: Mapping[str, Any]) -> list[Values]:
    """One row for each reason, the most frequent first, with examples if there are any."""
    rejected: Mapping[str, int] = counts.get("rejected", {})
    examples: Mapping[str, Sequence[str]] = counts.get("examples", {})
    ordered = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"reason": reason, "count": count, "examples": list(examples.get(reason, ()))}
        for reason, count in ordered
        if count
    ]


def read_similarity(embeddings: EmbeddingShards) -> np.ndarray:
    """Cosines of image and caption in the first `MAX_SHARDS` shards; (N,)."""
    names = sorted(embeddings.shards)[:MAX_SHARDS]
    columns = [embeddings.read(name, ["similarity"])["similarity"].to_numpy() for name in names]
    return np.concatenate([np.empty(0, np.float32), *columns])


def lineage_section(inputs: Inputs) -> Values:
    """One row for each stage: its key, what it was made from, and how long that took."""
    folders = inputs.folders
    rows = [
        {
            "stage": one.stage,
            "key": one.key,
            "made_from": one.made_from,
            "duration_s": duration_s(folders[one.stage]) if one.stage in folders else None,
        }
        for one in inputs.lineage
    ]
    return {"lineage": rows}


def duration_s(folder: Folder) -> float | None:
    """How long the stage took, from its manifest."""
    if not folder.exists(MANIFEST):
        return None
    duration: float | None = folder.read_json(MANIFEST).get("duration_s")
    return duration
