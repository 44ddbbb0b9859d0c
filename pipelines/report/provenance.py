"""The sections of the report on how the models were made: training, data and lineage."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from pipelines.artifacts import TrainedModel
from pipelines.core.folder import MANIFEST, Folder
from pipelines.core.resources import GIB
from pipelines.report import plots
from pipelines.report.data_page import (
    PAGE_FILE,
    explained_plot,
    funnel_rows,
    reason_rows,
    similarity_plot,
)
from pipelines.report.inputs import Inputs

Values = dict[str, Any]


def training_section(inputs: Inputs) -> Values:
    """The trained models, their loss curves and the CLIP that they read."""
    models = [_model_row(name, model) for name, model in inputs.models.items()]
    if inputs.clip_training:
        models = [_model_row("CLIP", inputs.clip_training), *models]
    return {
        "clip": inputs.clip,
        "models": models,
        "curves": {
            name: history and Markup(plots.curve(history, name.replace("_", " ")))
            for name, history in inputs.histories.items()
        },
        "timesteps": _by_part(inputs, plots.TIMESTEPS, plots.RAMP),
        "health": _by_part(inputs, plots.HEALTH, plots.PARTS),
    }


def _by_part(inputs: Inputs, kinds: Mapping[str, str], colors: Sequence[str]) -> list[Markup]:
    """The figures of the trainings that have such values."""
    return [
        Markup(plot)
        for name, history in inputs.histories.items()
        if (plot := plots.by_part(history, name.replace("_", " "), kinds, colors))
    ]


def _model_row(name: str, model: TrainedModel) -> Values:
    return {
        "name": name,
        "parameters": model.parameters,
        "steps": model.steps,
        "final_loss": model.final_loss,
        "steps_per_s": model.steps_per_s,
        "peak_gib": model.peak_bytes and model.peak_bytes / GIB,
        **_made(model.folder),
    }


def _made(folder: Folder) -> Values:
    return {"key": folder.url.rstrip("/").rsplit("/", 1)[-1], "duration_s": duration_s(folder)}


def data_section(inputs: Inputs) -> Values:
    """The funnel, why rows were rejected, and how the embeddings are distributed."""
    figures = inputs.data_figures
    return {
        "funnel": funnel_rows(figures),
        "rejections": {stage: reason_rows(r) for stage, r in figures["reasons"].items()},
        "reasons": figures["reasons"],
        "rejected": inputs.data_pictures["rejected"],
        "similarity": similarity_plot(figures),
        "components": figures["components"],
        "explained": explained_plot(figures),
        "data_page": PAGE_FILE,
    }


def lineage_section(inputs: Inputs) -> Values:
    """One row for each stage: its key, what it was made from, and how long that took."""
    manifest = inputs.evaluation.folder.read_json(MANIFEST)
    lineage = [{**asdict(one), "duration_s": duration_s(one.folder)} for one in inputs.lineage]
    return {
        "lineage": lineage,
        "made": {
            "at": manifest["created_at"][:19].replace("T", " "),
            **manifest["provenance"],
            "total_s": sum(one["duration_s"] or 0.0 for one in lineage),
        },
    }


def duration_s(folder: Folder) -> float | None:
    """How long the stage took, from its manifest."""
    if not folder.exists(MANIFEST):
        return None
    duration: float | None = folder.read_json(MANIFEST).get("duration_s")
    return duration
