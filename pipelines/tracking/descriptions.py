"""The descriptions on run pages, in Markdown, and the addresses of those pages."""

import inspect
import math
from collections.abc import Mapping

from pipelines.core.plan import Step
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Store

TRAINING_VIEW = "?workflowType=machine_learning"  # else MLflow shows pages for chat applications


def stage_note(stage: Stage[Artifact], store: Store, status: str) -> str:
    """The Markdown description on a stage's page."""
    summary = inspect.cleandoc(type(stage).__doc__ or stage.name).split("\n\n")[0]
    inputs = ", ".join(f"`{d.label}`" for d in stage.dependencies.values()) or "none"
    return (
        f"{summary}\n\n"
        f"- **Status**: {status}\n"
        f"- **Result**: `{store.folder(stage.name, stage.key).url}`\n"
        f"- **Inputs**: {inputs}\n"
    )


def pipeline_note(
    steps: tuple[Step, ...], status: Mapping[str, str], links: Mapping[str, Mapping[str, str]]
) -> str:
    """The Markdown description on the pipeline's page: each stage with status, run and reason."""
    reasons = [(step.stage.name, step.reason) for step in steps]
    return "\n".join(
        f"- **{name}**: {status[name]}{_link(links.get(name, {}))} (reason: {reason})"
        for name, reason in reasons
    )


def run_page(link: Mapping[str, str]) -> str:
    """The part of a run page's address after the server's, in the view for training."""
    experiment, run = link["mlflow_experiment_id"], link["mlflow_run_id"]
    return f"#/experiments/{experiment}/runs/{run}{TRAINING_VIEW}"


def _link(link: Mapping[str, str]) -> str:
    return f", [run {link['mlflow_run_id'][:8]}]({run_page(link)})" if link else ""


def duration(seconds: float) -> str:
    """Seconds as "45 s", "12 min 5 s" or "3 h 20 min"."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
