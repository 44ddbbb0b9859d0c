"""A small pipeline for listeners: three stages, reported as the runner does, without Ray."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from pipelines.core.events import Event, Metrics, Note, Output
from pipelines.core.graph import Graph
from pipelines.core.plan import Plan, Scope, make_plan
from pipelines.core.runner import Listener
from pipelines.core.stage import Artifact, Context, Shards, Stage
from pipelines.core.store import Manifest, Store
from unclip.config import Config


@dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    tag: ClassVar[str] = "fit_config"
    width: int
    learning_rate: float


@dataclass(frozen=True)
class Weights(Artifact):
    parameters: int
    final_loss: float


@dataclass(frozen=True)
class Pairs(Stage[Shards]):
    """Image-text pairs from a list of addresses."""

    kind: ClassVar[str] = "pairs"
    artifact: ClassVar[type[Artifact]] = Shards
    source: str

    def run(self, ctx: Context) -> Shards:
        raise AssertionError("reported, never run")


@dataclass(frozen=True)
class Fit(Stage[Weights]):
    """A model fitted to the pairs.

    Resumes from its last checkpoint.
    """

    kind: ClassVar[str] = "fit"
    artifact: ClassVar[type[Artifact]] = Weights
    pairs: Stage[Shards]
    config: FitConfig

    def run(self, ctx: Context) -> Weights:
        raise AssertionError("reported, never run")


@dataclass(frozen=True)
class Check(Stage[Artifact]):
    """What the model can do, as a report."""

    kind: ClassVar[str] = "check"
    artifact: ClassVar[type[Artifact]] = Artifact
    model: Stage[Weights]

    def run(self, ctx: Context) -> Artifact:
        raise AssertionError("reported, never run")


FACTS: dict[str, dict[str, Any]] = {
    "pairs": {
        "shards": {"00000": [3, "", ""], "00001": [4, "", ""]},
        "counts": {"kept": 7, "rejected": {"small": 2}},
    },
    "fit": {"parameters": 1234, "final_loss": 0.25},
    "check": {"metrics": {"fid": 12.5, "clip_score": 0.31}},
}


def plan_of(store: Store, width: int = 8) -> Plan:
    fit = Fit(Pairs("urls.parquet"), FitConfig(width=width, learning_rate=1e-3))
    return make_plan(Graph([Check(fit)]), store, Scope())


def losses(first: int, last: int) -> list[Event]:
    return [
        Metrics("fit", s, {"train/loss": 1 / (s + 1), "train/lr": 1e-3}) for s in range(first, last)
    ]


def draw(store: Store, plan: Plan, name: str, colour: str) -> Event:
    step = plan["fit"].stage
    local = Path(store.root) / "drawn.png"
    local.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), colour).save(local)
    store.folder(step.name, step.key).publish(local, name)
    return Output("fit", name)


def finish(store: Store, plan: Plan, stage: str, links: dict[str, str]) -> Manifest:
    made = plan[stage].stage
    folder = store.folder(made.name, made.key)
    folder.write_bytes("model.safetensors" if stage == "fit" else f"{stage}.bin", b"x" * 100)
    return store.commit(
        Manifest(
            stage=made.name,
            key=made.key,
            version=made.version,
            description=made.description,
            dependencies={n: d.label for n, d in made.dependencies.items()},
            metadata=FACTS[stage],
            outputs={},
            provenance={},
            links=links,
            created_at="2026-03-01T12:00:00+00:00",
            duration_s=61.5,
        )
    )


def tell(
    listener: Listener, store: Store, plan: Plan, stage: str, events: Sequence[Event] = ()
) -> dict[str, str]:
    """Report a stage from start to end; returns its links."""
    links = dict(listener.started(plan[stage]))
    for event in events:
        listener.event(event)
    listener.finished(finish(store, plan, stage, links))
    return links


def whole_run(listener: Listener, store: Store, plan: Plan) -> dict[str, dict[str, str]]:
    """All events of a first run."""
    links = {"pairs": tell(listener, store, plan, "pairs", [Note("pairs", "a worker died")])}
    pictures = [
        draw(store, plan, f"samples/step_{s:06d}.png", c) for s, c in ((10, "navy"), (20, "teal"))
    ]
    links["fit"] = tell(listener, store, plan, "fit", [*losses(0, 20), *pictures])
    check = plan["check"].stage
    page = b"<h1>Report</h1><p>It works.</p>"
    store.folder(check.name, check.key).write_bytes("report.html", page)
    links["check"] = tell(listener, store, plan, "check", [Output("check", "report.html")])
    return links
