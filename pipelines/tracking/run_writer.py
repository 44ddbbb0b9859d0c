"""Writes what happens to a run as records, and posts them to the outbox."""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pipelines.core.events import Model
from pipelines.core.store import Manifest, Store
from pipelines.tracking.outbox import Outbox
from pipelines.tracking.run_values import artifact_folder, dataset
from pipelines.tracking.server import Server
from pipelines.tracking.spool import Record, SpoolFolder

SPOOL = ".tracking"  # in the store's root
Status = Literal["FINISHED", "FAILED", "KILLED"]
MetricPoint = tuple[str, float, int, int]  # name, value, time (ms since 1970), step


class RunWriter:
    """Opens runs and adds to them. Runs are named by ids of our own. Never raises."""

    def __init__(self, outbox: Outbox, store: Store) -> None:
        self.outbox, self.store = outbox, store

    def open(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        """Open a run, with a parent run if given; returns its id."""
        run = uuid.uuid4().hex
        body = {"name": name, "parent": parent, "tags": dict(tags), "at_ms": now_ms()}
        self._post("run", run, body)
        return run

    def params(self, run: str, params: Mapping[str, str]) -> None:
        """Add parameters."""
        self._batch(run, params=list(params.items()))

    def tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._batch(run, tags=list(tags.items()))

    def metrics(self, run: str, metrics: Mapping[str, float]) -> None:
        """Add metrics that have no step."""
        self.points(run, [(name, value, now_ms(), 0) for name, value in metrics.items()])

    def points(self, run: str, points: Iterable[MetricPoint]) -> None:
        """Add metrics with their steps and times."""
        self._batch(run, metrics=list(points))

    def dataset(self, run: str, manifest: Manifest | None, use: str) -> None:
        """Add a stage's rows as a data set; `use` is input, output or cached."""
        described = dataset(manifest, self.store) if manifest else None
        if described:
            self._post("dataset", run, {"dataset": described, "use": use})

    def file(self, run: str, folder: str, file: str) -> None:
        """Copy a file of the folder with this URL to the run."""
        self._post("file", run, {"folder": folder, "file": file, "place": artifact_folder(file)})

    def model(self, run: str, folder: str, key: str, model: Model) -> None:
        """Register a model once for a stage's key. folder: URL of the one with its file."""
        self._post("model", run, {"folder": folder, "key": key, **vars(model)})

    def text(self, run: str, path: str, text: str) -> None:
        """Write a text file."""
        self._post("text", run, {"path": path, "text": text})

    def end(self, run: str, status: Status) -> None:
        """Close the run."""
        self._post("end", run, {"status": status, "at_ms": now_ms()})

    def _batch(self, run: str, **pairs: list[Any]) -> None:
        body = {kind: values for kind, values in pairs.items() if values}
        if body:
            self._post("batch", run, body)

    def _post(self, kind: str, run: str, body: Mapping[str, Any]) -> None:
        self.outbox.post(Record(kind, run, body))


def open_outbox(server: Server, warn: Callable[[str], None]) -> Outbox:
    """The outbox of this server and experiment, with a folder of its own in the store."""
    name = hashlib.sha256(f"{server.uri}\n{server.experiment}".encode()).hexdigest()[:12]
    spool = SpoolFolder(f"{server.store.root.rstrip('/')}/{SPOOL}/{name}")
    return Outbox(spool, send=server.carry_out, answers=server.answers, warn=warn)


def now_ms() -> int:
    """Milliseconds since 1970, the server's unit of time."""
    return int(time.time() * 1000)
