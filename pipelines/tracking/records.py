"""What a run page shows, made from plans and manifests: names, numbers, tables, descriptions."""

import inspect
import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pipelines.core.plan import Step
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Manifest, Store

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")
DIGITS = re.compile(r"(\d+)$")
TRAINING_VIEW = "?workflowType=machine_learning"  # else MLflow shows pages for chat applications
SOURCE_TYPES = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}  # as MLflow names them


def flatten(value: Any, path: str = "") -> dict[str, str]:
    """A nested configuration as it was given: {"train.lr": "0.0001", "models.0.width": "64"}."""
    if isinstance(value, Mapping) and value:
        items = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(v, Mapping | list) for v in value):
        items = [(str(i), inner) for i, inner in enumerate(value)]
    else:
        return {safe_name(path): value if isinstance(value, str) else _plain(value)}
    found: dict[str, str] = {}
    for name, inner in items:
        found |= flatten(inner, f"{path}.{name}" if path else name)
    return found


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def safe_name(name: str) -> str:
    """The name with the letters that the server takes, and no path that leads upwards."""
    clean = re.sub(r"[^\w\-. /:]", "_", name)
    parts = [part for part in clean.split("/") if part.strip(". ")]
    return "/".join(parts)[:250] or "unnamed"


def stage_params(stage: Stage[Artifact]) -> dict[str, str]:
    """All that the stage's result follows from; empty parts are left out."""
    described = {n: v for n, v in stage.description.items() if n != "stage" and v not in ({}, "")}
    return flatten(described)


def metadata_numbers(metadata: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among an artifact's facts; those of "metrics" stand for themselves."""
    found: dict[str, float] = {}
    for name, value in metadata.items():
        if name == "rows" and isinstance(value, Mapping):
            found |= {"rows": float(sum(value.values())), "shards": float(len(value))}
        elif isinstance(value, Mapping):
            inner = metadata_numbers(value)
            found |= inner if name == "metrics" else {f"{name}/{n}": v for n, v in inner.items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return {safe_name(name): number for name, number in found.items()}


def headline_numbers(manifest: Manifest) -> dict[str, float]:
    """What the pipeline's own page shows of a stage: its numbers, without the detailed counts."""
    numbers = metadata_numbers(manifest.metadata).items()
    return {f"{manifest.stage}/{n}": v for n, v in numbers if not n.startswith("counts/")}


def dataset(manifest: Manifest, store: Store) -> dict[str, str] | None:
    """The stage's rows as a data set whose digest is the stage's key; None where it has none."""
    rows = manifest.metadata.get("rows")
    if not isinstance(rows, Mapping):
        return None
    url = store.folder(manifest.stage, manifest.key).url
    scheme = url.split("://")[0] if "://" in url else ""
    return {
        "name": manifest.stage,
        "digest": manifest.key,
        "source_type": SOURCE_TYPES.get(scheme, "local"),
        "source": json.dumps({"uri": url}),
        "profile": json.dumps({"num_rows": sum(rows.values()), "num_shards": len(rows)}),
    }


def place(file: str) -> str:
    """The folder of a run's artifacts in which people look for a file of this kind."""
    suffix = PurePosixPath(file).suffix.lower()
    if suffix in PICTURES:
        return "samples"
    if suffix in (".html", ".pdf"):
        return "report"
    return "model" if suffix == ".safetensors" else "files"


def step_of(file: str) -> int | None:
    """The step in the name of a picture: "samples/step_000500.png" is of step 500."""
    digits = DIGITS.search(PurePosixPath(file).stem)
    return int(digits[1]) if digits else None


def stage_note(stage: Stage[Artifact], store: Store, status: str) -> str:
    """The description on a stage's page."""
    summary = inspect.cleandoc(type(stage).__doc__ or stage.name).split("\n\n")[0]
    inputs = ", ".join(f"`{d.label}`" for d in stage.dependencies.values()) or "none"
    return (
        f"{summary}\n\n"
        f"- **Status**: {status}\n"
        f"- **Result**: `{store.folder(stage.name, stage.key).url}`\n"
        f"- **Made from**: {inputs}\n"
    )


def pipeline_note(
    steps: tuple[Step, ...], status: Mapping[str, str], links: Mapping[str, Mapping[str, str]]
) -> str:
    """The description on the pipeline's page: every stage, how it stands, its run, and why."""
    message = [(step.stage.name, step.reason) for step in steps]
    return "\n".join(
        f"- **{n}** {status[n]}{_link(links.get(n, {}))} · why: {why}" for n, why in message
    )


def run_page(link: Mapping[str, str]) -> str:
    """The address of a run's page within a server's, in its view for training."""
    experiment, run = link["mlflow_experiment_id"], link["mlflow_run_id"]
    return f"#/experiments/{experiment}/runs/{run}{TRAINING_VIEW}"


def _link(link: Mapping[str, str]) -> str:
    return f", [run {link['mlflow_run_id'][:8]}]({run_page(link)})" if link else ""


def duration(seconds: float) -> str:
    """45 s, 12 min 5 s, 3 h 20 min."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
