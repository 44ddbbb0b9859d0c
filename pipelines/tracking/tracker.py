"""Tracks a pipeline: a parent run for the pipeline, and a child run for each stage that runs.

Only the driver talks to the tracking server. Everything goes through an outbox, so if the server is
down, the run warns and continues, and the records are sent later.
"""

import json
import logging
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from pipelines.core.errors import first_line
from pipelines.core.events import Event, Metrics, Model, Note, Output, Progress
from pipelines.core.folder import MANIFEST
from pipelines.core.plan import Plan, Step
from pipelines.core.provenance import git_commit
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Manifest, Store
from pipelines.tracking.descriptions import duration, pipeline_note, run_page, stage_note
from pipelines.tracking.run_values import (
    artifact_folder,
    flatten,
    headline_numbers,
    metadata_numbers,
    safe_name,
    stage_params,
)
from pipelines.tracking.run_writer import MetricPoint, RunWriter, Status, now_ms, open_outbox
from pipelines.tracking.server import Server
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.system_metrics import SystemMetrics

log = logging.getLogger(__name__)

METRICS_EVERY_S = 2.0  # metrics that arrive faster are sent together
CLOSE_LIMIT_S = 5.0  # of the end after an interrupt, and while the server is down
NOTE = "mlflow.note.content"  # the tag that the server shows as a run's description


class Tracker:
    """A `Listener` that tracks a run. Never raises: problems are warnings."""

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
        self.runs = RunWriter(self.outbox, store)
        self.parent = ""  # our own id of the pipeline's run, from `begin`
        self.children: dict[str, str] = {}  # stage → our own id of its run
        self.open: set[str] = set()  # stages that are running
        self.status = {s.stage.name: _first_status(s) for s in plan.steps}
        self.links: dict[str, Mapping[str, str]] = {}
        self.notes: dict[str, list[str]] = {}
        self.points: dict[str, dict[tuple[str, int], MetricPoint]] = {}  # not sent yet, by stage
        self.sent_at = 0.0
        self.system = SystemMetrics(clock)

    def begin(
        self, *, name: str, config: Mapping[str, Any], command: str = shlex.join(sys.argv)
    ) -> None:
        """Open the parent run. `name` is the configuration's, `config` the whole configuration."""
        tags = {
            "config": name,
            "command": command,
            "store": self.store.root,
            "mlflow.source.git.commit": git_commit() or "unknown",
            "mlflow.source.name": command,
        }
        self.parent = self.runs.open(f"{name} {datetime.now():%Y-%m-%d %H:%M}", tags)
        self.runs.params(self.parent, flatten(config))
        for step in self.plan.steps:
            if step.action == "cached" and step.manifest:
                self._link_cached(step.manifest)
        self._describe()

    def end(self, status: Status) -> None:
        """Close the parent run, and the runs of stages that are still running as killed.

        After an interrupt, and while the server is down, takes at most `CLOSE_LIMIT_S`.
        """
        log.info("the run ended: %s", status)
        if status == "KILLED" or self.outbox.server.error:
            self.outbox.hurry(CLOSE_LIMIT_S)
        for stage in sorted(self.open):
            self.status[stage] = "stopped before it was done"
            self._close(stage, "KILLED")
        self._describe()
        self.runs.end(self.parent, status)
        self.outbox.close()

    @property
    def url(self) -> str | None:
        """The pipeline's page on a server; None for a database, which `unclip ui` shows."""
        link = self.server.link(self.parent)
        if not link or not self.server.uri.startswith("http"):
            return None
        return f"{self.server.uri.rstrip('/')}/{run_page(link)}"

    def started(self, step: Step) -> Mapping[str, str]:
        """Open the stage's run; returns the run's ids, or nothing if the server is down."""
        stage = step.stage
        self.status[stage.name] = "running"
        tags = {"stage": stage.name, "stage_key": stage.key, "label": stage.label}
        tags |= {"reason": step.reason, NOTE: stage_note(stage, self.store, "running")}
        run = self.runs.open(stage.name, tags, self.parent)
        self.children[stage.name] = run
        self.open.add(stage.name)
        self.runs.params(run, stage_params(stage))
        for dependency in stage.dependencies.values():
            self.runs.dataset(run, self._manifest(dependency), "input")
        self.links[stage.name] = self.server.link(run)
        self._describe()
        return self.links[stage.name]

    def event(self, event: Event) -> None:
        """Track metrics, files, models and notes. Progress is only shown in the terminal."""
        run = self.children.get(event.stage)
        if run is None:
            return
        match event:
            case Metrics(stage, step, values):
                points = self.points.setdefault(stage, {})
                for name, value in values.items():
                    key = safe_name(name)
                    points[key, step] = (key, float(value), now_ms(), step)
            case Output(stage, file):
                self._file(stage, file)
            case Note(stage, text):
                notes = self.notes.setdefault(stage, [])
                notes.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}")
                self.runs.text(run, "notes.txt", "\n".join(notes) + "\n")
            case Model(stage):
                made = self.plan[stage].stage
                folder = self.store.folder(made.name, made.key).url
                self.runs.model(run, folder, made.key, event)
            case Progress():
                pass
        if self.clock() - self.sent_at >= METRICS_EVERY_S:
            self._send_metrics()

    def finished(self, manifest: Manifest) -> None:
        """Log the stage's result, and close its run."""
        run = self.children[manifest.stage]
        # The stage has sent its metrics as events.
        rest = {name: value for name, value in manifest.metadata.items() if name != "metrics"}
        numbers = {**metadata_numbers(rest), "duration_s": manifest.duration_s}
        self.runs.metrics(run, {f"result/{name}": value for name, value in numbers.items()})
        self.runs.metrics(self.parent, headline_numbers(manifest))
        for page in (run, self.parent):
            self.runs.dataset(page, manifest, "output")
        self._models(run, manifest)
        text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False)
        self.runs.text(run, MANIFEST, text)
        self.status[manifest.stage] = f"done in {duration(manifest.duration_s)}"
        self._close(manifest.stage, "FINISHED")
        self._describe()

    def failed(self, step: Step, error: BaseException) -> None:
        """Close the stage's run with the error in its description."""
        stage = step.stage.name
        self.status[stage] = "**failed**"
        message = f"{type(error).__name__}: {error}"
        self.runs.tags(self.children[stage], {"error": message[:5000]})
        self._close(stage, "FAILED", f"failed\n\n> {message[:2000]}")
        self._describe()

    def _close(self, stage: str, status: Status, description: str = "") -> None:
        self._send_metrics()
        run = self.children[stage]
        described = description or self.status[stage]
        self.runs.tags(run, {NOTE: stage_note(self.plan[stage].stage, self.store, described)})
        self.runs.end(run, status)
        self.open.discard(stage)

    def _link_cached(self, manifest: Manifest) -> None:
        """Add a link from the pipeline's run to the run that made a cached result."""
        link = {k: v for k, v in manifest.links.items() if k.startswith("mlflow_")}
        link = link or self._link_of_key(manifest.key)
        self.links[manifest.stage] = link
        made_by = link.get("mlflow_run_id", "unknown")
        self.runs.tags(
            self.parent, {f"cached.{manifest.stage}": f"run {made_by}, key {manifest.key}"}
        )
        self.runs.metrics(self.parent, headline_numbers(manifest))
        self.runs.dataset(self.parent, manifest, "cached")

    def _link_of_key(self, key: str) -> dict[str, str]:
        if self.outbox.waiting:
            return {}
        try:
            return self.outbox.ask(lambda: self.server.link_of_key(key))
        except Exception:  # the page then lacks this link
            log.debug("no run was found for key %s", key, exc_info=True)
            return {}

    def _manifest(self, stage: Stage[Artifact]) -> Manifest | None:
        try:
            return self.store.manifest(stage.name, stage.key)
        except Exception as error:
            self.warn(f"The input {stage.label} is not tracked: {first_line(error)}.")
            return None

    def _file(self, stage: str, file: str) -> None:
        made = self.plan[stage].stage
        folder = self.store.folder(made.name, made.key).url
        self.runs.file(self.children[stage], folder, file)
        if artifact_folder(file) == "report":
            self.runs.file(self.parent, folder, file)

    def _models(self, run: str, manifest: Manifest) -> None:
        """Copy the weights to the run; add links to those larger than the limit."""
        for file, size in manifest.outputs.items():
            if PurePosixPath(file).suffix != ".safetensors":
                continue
            if size <= self.settings.max_artifact_mb * 10**6:
                self._file(manifest.stage, file)
            else:
                url = self.store.folder(manifest.stage, manifest.key).file(file)
                self.runs.tags(run, {safe_name(f"model.{file}"): url})

    def _send_metrics(self) -> None:
        self.sent_at = self.clock()
        for stage, points in self.points.items():
            self.runs.points(self.children[stage], points.values())
        self.points = {}
        if self.system.is_due:
            step, values = self.system.sample()
            self.runs.points(self.parent, [(n, v, now_ms(), step) for n, v in values.items()])

    def _describe(self) -> None:
        note = pipeline_note(self.plan.steps, self.status, self.links)
        self.runs.tags(self.parent, {NOTE: note})


def _first_status(step: Step) -> str:
    return {"cached": "cached", "run": "waiting", "skip": "not selected"}[step.action]
