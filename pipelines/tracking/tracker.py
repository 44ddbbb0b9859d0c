"""Runs, metrics, data sets, models, pictures and the report: what a tracking server is told.

The driver alone talks to it: a parent run for the pipeline, a child for every stage that runs.
Whatever there is to tell goes through an outbox, so an outage of the server costs a warning, and
nothing that was told is lost.
"""

import hashlib
import json
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from pipelines.core.events import Event, Metrics, Note, Output, Progress
from pipelines.core.plan import Plan, Step
from pipelines.core.provenance import git_commit
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import MANIFEST, Manifest, Store
from pipelines.tracking.records import (
    dataset,
    duration,
    flatten,
    headline_numbers,
    metadata_numbers,
    pipeline_note,
    place,
    run_page,
    safe_name,
    stage_note,
    stage_params,
)
from pipelines.tracking.server import Server
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.spool import Outbox, Record, SpoolFolder

SPOOL = ".tracking"  # in the store's root
METRICS_EVERY_S = 2.0  # what comes faster is sent together
NOTE = "mlflow.note.content"  # the tag that the server shows as a run's description
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """A `Listener` that keeps a parent run for the pipeline and a child run for each stage.

    Never raises: what cannot be told is a warning, and is kept.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        settings: TrackingSettings,
        *,
        uri: str,  # from `prepare`
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.store, self.settings = plan, store, settings
        self.warn, self.clock = warn, clock
        self.server = Server(uri, settings.experiment, store)
        self.outbox = open_outbox(self.server, warn)
        self.parent = uuid.uuid4().hex
        self.children: dict[str, str] = {}  # stage → its run, by our own id
        self.open: set[str] = set()  # stages that run
        self.status = {s.stage.name: _first_status(s) for s in plan.steps}
        self.links: dict[str, Mapping[str, str]] = {}
        self.notes: dict[str, list[str]] = {}
        self.metrics: dict[str, dict[tuple[str, int], list[Any]]] = {}
        self.sent_at = 0.0

    def begin(
        self, *, name: str, config: Mapping[str, Any], command: str = shlex.join(sys.argv)
    ) -> None:
        """Open the parent run. `name`: of the configuration; `config`: as it was given."""
        tags = {
            "config": name,
            "command": command,
            "store": self.store.root,
            "mlflow.source.git.commit": git_commit() or "unknown",
            "mlflow.source.name": command,
        }
        self._post("run", self.parent, opening(f"{name} {datetime.now():%Y-%m-%d %H:%M}", tags))
        self._batch(self.parent, params=flatten(config))
        for step in self.plan.steps:
            if step.action == "cached" and step.manifest:
                self._link_cached(step.manifest)
        self._describe()

    def end(self, status: Status) -> None:
        """Close the parent run, and as killed whatever still runs."""
        for stage in sorted(self.open):
            self.status[stage] = "ended before it was done"
            self._close(stage, "KILLED")
        self._describe()
        self._post("end", self.parent, {"status": status, "at_ms": now_ms()})
        self.outbox.close()

    @property
    def url(self) -> str | None:
        """The pipeline's page on a server; None for a database, which `unclip ui` shows."""
        link = self.server.link(self.parent)
        if not link or not self.server.uri.startswith("http"):
            return None
        return f"{self.server.uri.rstrip('/')}/{run_page(link)}"

    def started(self, step: Step) -> Mapping[str, str]:
        """Open the stage's run; its link is empty where the server is away."""
        stage, run = step.stage, uuid.uuid4().hex
        self.children[stage.name] = run
        self.open.add(stage.name)
        self.status[stage.name] = "running"
        tags = {"stage": stage.name, "stage_key": stage.key, "label": stage.label}
        tags |= {"reason": step.reason, NOTE: stage_note(stage, self.store, "running")}
        self._post("run", run, {**opening(stage.name, tags), "parent": self.parent})
        self._batch(run, params=stage_params(stage))
        for dependency in stage.dependencies.values():
            self._dataset(run, self._manifest(dependency), "input")
        self.links[stage.name] = self.server.link(run)
        self._describe()
        return self.links[stage.name]

    def event(self, event: Event) -> None:
        """Pass on what a stage says; how far it is, is the terminal's to show."""
        run = self.children.get(event.stage)
        if run is None:
            return
        match event:
            case Metrics(stage, step, values):
                waiting = self.metrics.setdefault(stage, {})
                for name, value in values.items():
                    key = safe_name(name)
                    waiting[key, step] = [key, float(value), now_ms(), step]
            case Output(stage, file):
                self._file(stage, file)
            case Note(stage, text):
                message = self.notes.setdefault(stage, [])
                message.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}")
                self._post("text", run, {"path": "notes.txt", "text": "\n".join(message) + "\n"})
            case Progress():
                pass
        if self.clock() - self.sent_at >= METRICS_EVERY_S:
            self._send_metrics()

    def finished(self, manifest: Manifest) -> None:
        """Log what the stage made, and close its run."""
        run = self.children[manifest.stage]
        numbers = {**metadata_numbers(manifest.metadata), "duration_s": manifest.duration_s}
        self._batch(run, metrics={f"result/{name}": value for name, value in numbers.items()})
        self._batch(self.parent, metrics=headline_numbers(manifest))
        for page in (run, self.parent):
            self._dataset(page, manifest, "output")
        self._models(run, manifest)
        text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False)
        self._post("text", run, {"path": MANIFEST, "text": text})
        self.status[manifest.stage] = f"done in {duration(manifest.duration_s)}"
        self._close(manifest.stage, "FINISHED")
        self._describe()

    def failed(self, step: Step, error: BaseException) -> None:
        """Close the stage's run with the error on its page."""
        stage = step.stage.name
        self.status[stage] = "**failed**"
        message = f"{type(error).__name__}: {error}"
        self._batch(self.children[stage], tags={"error": message[:5000]})
        self._close(stage, "FAILED", f"failed\n\n> {message[:2000]}")
        self._describe()

    def _close(self, stage: str, status: Status, said: str = "") -> None:
        self._send_metrics()
        run = self.children[stage]
        note = stage_note(self.plan[stage].stage, self.store, said or self.status[stage])
        self._batch(run, tags={NOTE: note})
        self._post("end", run, {"status": status, "at_ms": now_ms()})
        self.open.discard(stage)

    def _link_cached(self, manifest: Manifest) -> None:
        """Point from the pipeline's run to the run that made what it reuses."""
        link = {k: v for k, v in manifest.links.items() if k.startswith("mlflow_")}
        link = link or self._found(manifest.key)
        self.links[manifest.stage] = link
        made_by = link.get("mlflow_run_id", "unknown")
        self._batch(
            self.parent,
            tags={f"cached.{manifest.stage}": f"run {made_by}, key {manifest.key}"},
            metrics=headline_numbers(manifest),
        )
        self._dataset(self.parent, manifest, "cached")

    def _found(self, key: str) -> dict[str, str]:
        try:
            return {} if self.outbox.waiting else self.server.link_of_key(key)
        except Exception:  # a link fewer
            return {}

    def _manifest(self, stage: Stage[Artifact]) -> Manifest | None:
        try:
            return self.store.manifest(stage.name, stage.key)
        except Exception as error:
            self.warn(f"Tracking leaves out the input {stage.label}: {error}")
            return None

    def _dataset(self, run: str, manifest: Manifest | None, use: str) -> None:
        described = dataset(manifest, self.store) if manifest else None
        if described:
            self._post("dataset", run, {"dataset": described, "use": use})

    def _file(self, stage: str, file: str) -> None:
        step, where = self.plan[stage], place(file)
        folder = self.store.folder(step.stage.name, step.stage.key).url
        for run in [self.children[stage], *([self.parent] if where == "report" else [])]:
            self._post("file", run, {"folder": folder, "file": file, "place": where})

    def _models(self, run: str, manifest: Manifest) -> None:
        """Copy the weights to the run; link to those that are too large for that."""
        for file, size in manifest.outputs.items():
            if PurePosixPath(file).suffix != ".safetensors":
                continue
            if size <= self.settings.max_artifact_mb * 10**6:
                self._file(manifest.stage, file)
            else:
                url = self.store.folder(manifest.stage, manifest.key).file(file)
                self._batch(run, tags={safe_name(f"model.{file}"): url})

    def _send_metrics(self) -> None:
        self.sent_at = self.clock()
        for stage, waiting in self.metrics.items():
            self._post("batch", self.children[stage], {"metrics": list(waiting.values())})
        self.metrics = {}

    def _describe(self) -> None:
        note = pipeline_note(self.plan.steps, self.status, self.links)
        self._batch(self.parent, tags={NOTE: note})

    def _batch(
        self,
        run: str,
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        body = {
            "params": list((params or {}).items()),
            "tags": list((tags or {}).items()),
            "metrics": [[name, value, now_ms(), 0] for name, value in (metrics or {}).items()],
        }
        self._post("batch", run, {kind: pairs for kind, pairs in body.items() if pairs})

    def _post(self, kind: str, run: str, body: Mapping[str, Any]) -> None:
        self.outbox.post(Record(kind, run, body))


def open_outbox(server: Server, warn: Callable[[str], None]) -> Outbox:
    """What waits for another server or experiment stays where it is."""
    name = hashlib.sha256(f"{server.uri}\n{server.experiment}".encode()).hexdigest()[:12]
    spool = SpoolFolder(f"{server.store.root.rstrip('/')}/{SPOOL}/{name}")
    return Outbox(spool, send=server.carry_out, answers=server.answers, warn=warn)


def opening(name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """The body of a record that opens a run."""
    return {"name": name, "parent": None, "tags": dict(tags), "at_ms": now_ms()}


def _first_status(step: Step) -> str:
    return {"cached": "cached", "run": "waiting", "skip": "left alone"}[step.action]


def now_ms() -> int:
    """Milliseconds since 1970, as the server counts time."""
    return int(time.time() * 1000)
