"""The tracking server, through an MLflow client and no global state: MLflow's only import.

A record says what the server is to be told; carrying it out may fail or be repeated, and the outbox
deals with both.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipelines.core.errors import PipelineError
from pipelines.core.store import Folder, Store
from pipelines.tracking.records import step_of
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.spool import Record

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

OWN_ID = "unclip.id"  # the tag that finds a run by the id that a record names it by
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"  # in the store's root
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # pages for training, not for chat
    "mlflow.note.content": "Every run of a pipeline, with a run below it for each stage that ran.",
}
MOST_METRICS, MOST_PAIRS = 1000, 100  # that the server takes at once
ENVIRONMENT = {  # where the user chose nothing
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the outbox tries again, without blocking
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # the terminal belongs to the view
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
T = TypeVar("T")


def prepare(settings: TrackingSettings, store: Store, warn: Callable[[str], None]) -> str:
    """The preflight: the tracking URI, its database migrated once, its server known to answer."""
    uri = tracking_uri(settings, store)
    try:
        Server(uri, settings.experiment, store).experiment_id()
    except PipelineError:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        problem = f"The tracking server {uri} does not answer: {text[:200]}."
        if settings.required:
            raise PipelineError(
                f"{problem} Start it, name another with --set run.tracking.uri=…, or go on "
                "without it for now with --set run.tracking.required=false: what is to be "
                "tracked is kept and sent when it answers."
            ) from error
        warn(f"{problem} The work goes on, and what is to be tracked is kept.")
    return uri


def tracking_uri(settings: TrackingSettings, store: Store) -> str:
    """What the settings name, else an SQLite file in a local store's root."""
    if settings.uri is not None:
        return settings.uri
    root = local_root(store)
    if root is None:
        raise PipelineError(
            f"The store {store.root} is not on this machine and cannot hold an SQLite database, "
            "and no tracking server was named. Name one with --set run.tracking.uri=http://…, or "
            "a local file with --set run.tracking.uri=sqlite:////tmp/mlflow.db."
        )
    root.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{root / DATABASE}"


def local_root(store: Store) -> Path | None:
    """The store's root as a path, or None where it is on no disk of this machine."""
    fs, path = url_to_fs(store.root)
    return Path(path) if isinstance(fs, LocalFileSystem) else None


class Server:
    """Carries out records through an MLflow client. Every method may raise what the client does."""

    def __init__(self, uri: str, experiment: str, store: Store) -> None:
        self.uri, self.experiment, self.store = uri, experiment, store
        self.runs: dict[str, str] = {}  # our id → MLflow's
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None

    @property
    def client(self) -> "MlflowClient":
        """Made on first use: the import takes seconds."""
        if self._client is None:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from mlflow.tracking import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client = MlflowClient(self.uri, self.uri)
        return self._client

    def answers(self) -> bool:
        """Whether the server answers at all."""
        try:
            self.client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def experiment_id(self) -> str:
        """The experiment, made where it is not there. A database keeps its files in the store."""
        if self._experiment_id is None:
            found = self.client.get_experiment_by_name(self.experiment)
            if found is not None and found.lifecycle_stage != "active":
                raise PipelineError(
                    f"The experiment {self.experiment!r} was deleted in {self.uri}. Restore it "
                    "there, or name another with --set run.tracking.experiment=…"
                )
            root = local_root(self.store)
            there = root.as_uri() if root else self.store.root.rstrip("/")
            own = None if self.uri.startswith("http") else f"{there}/{ARTIFACTS}"
            self._experiment_id = (
                found.experiment_id
                if found
                else self.client.create_experiment(
                    self.experiment, artifact_location=own, tags=EXPERIMENT_TAGS
                )
            )
        return self._experiment_id

    def carry_out(self, record: Record) -> None:
        """Tell the server; carrying out the same record again changes nothing."""
        handlers: Mapping[str, Callable[[str, Mapping[str, Any]], None]] = {
            "run": self._open,
            "batch": self._batch,
            "file": self._file,
            "text": self._text,
            "dataset": self._dataset,
            "end": self._end,
        }
        handlers[record.kind](record.run, record.body)

    def run_id(self, run: str) -> str:
        """MLflow's id of a run; runs of earlier processes are found by their tag."""
        if run not in self.runs:
            found = self._search(OWN_ID, run)
            if found is None:
                raise LookupError(f"run {run} was never opened")
            self.runs[run] = found.info.run_id
        return self.runs[run]

    def link(self, run: str) -> dict[str, str]:
        """What leads to a run that the server knows already; nothing where it does not."""
        if run not in self.runs or self._experiment_id is None:
            return {}
        return {"mlflow_run_id": self.runs[run], "mlflow_experiment_id": self._experiment_id}

    def link_of_key(self, key: str) -> dict[str, str]:
        """The latest finished run of a stage key, for manifests made while the server was away."""
        found = self._search("stage_key", key, "attributes.status = 'FINISHED'")
        if found is None:
            return {}
        info = found.info
        return {"mlflow_run_id": info.run_id, "mlflow_experiment_id": info.experiment_id}

    def _search(self, tag: str, value: str, also: str = "") -> "Run | None":
        query = f"tags.`{tag}` = '{value}'" + (f" and {also}" if also else "")
        newest = ["attributes.start_time DESC"]
        found = self.client.search_runs(
            [self.experiment_id()], query, max_results=1, order_by=newest
        )
        return found[0] if found else None

    def _open(self, run: str, body: Mapping[str, Any]) -> None:
        there = self._search(OWN_ID, run)
        if there is not None:  # its answer never came; that does not make a second run
            self.runs[run] = there.info.run_id
            return
        tags = {**body["tags"], OWN_ID: run}
        if body["parent"]:
            tags["mlflow.parentRunId"] = self.run_id(body["parent"])
        if "stage_key" in tags:
            tags |= self._take_over(tags["stage_key"])
        made = self.client.create_run(
            self.experiment_id(), start_time=body["at_ms"], tags=tags, run_name=body["name"]
        )
        self.runs[run] = made.info.run_id

    def _take_over(self, key: str) -> dict[str, str]:
        """Close what a driver that was killed left open, and point to it: the stage goes on."""
        earlier = self._search("stage_key", key)
        if earlier is None or earlier.info.status == "FINISHED":
            return {}
        parent = earlier.data.tags.get("mlflow.parentRunId")
        for run_id in filter(None, (earlier.info.run_id, parent)):
            if self.client.get_run(run_id).info.status == "RUNNING":
                self.client.set_terminated(run_id, "KILLED")
        return {"continues": earlier.info.run_id}

    def _batch(self, run: str, body: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        run_id = self.run_id(run)
        for params in _chunks([Param(*pair) for pair in body.get("params", [])], MOST_PAIRS):
            self.client.log_batch(run_id, params=params)
        for tags in _chunks([RunTag(*pair) for pair in body.get("tags", [])], MOST_PAIRS):
            self.client.log_batch(run_id, tags=tags)
        for metrics in _chunks([Metric(*m) for m in body.get("metrics", [])], MOST_METRICS):
            self.client.log_batch(run_id, metrics=metrics)

    def _file(self, run: str, body: Mapping[str, Any]) -> None:
        with _fetched(Folder(body["folder"]), body["file"]) as local:
            run_id = self.run_id(run)
            self.client.log_artifact(run_id, str(local), body["place"])
            if body["place"] == "samples" and step_of(body["file"]) is not None:
                self._picture(run_id, local)

    def _picture(self, run_id: str, local: Path) -> None:
        """Show a picture of a step among the metrics too, where a slider runs over the steps."""
        from PIL import Image

        named = local.stem.rstrip("0123456789").strip("_-. ")
        key = "samples" if named in ("", "step") else named
        with Image.open(local) as image:
            self.client.log_image(
                run_id, image.convert("RGB"), key=key, step=step_of(local.name), synchronous=True
            )

    def _text(self, run: str, body: Mapping[str, Any]) -> None:
        self.client.log_text(self.run_id(run), body["text"], body["path"])

    def _dataset(self, run: str, body: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        used = DatasetInput(
            Dataset(**body["dataset"]), [InputTag("mlflow.data.context", body["use"])]
        )
        self.client.log_inputs(self.run_id(run), [used])

    def _end(self, run: str, body: Mapping[str, Any]) -> None:
        self.client.set_terminated(self.run_id(run), body["status"], body["at_ms"])


@contextlib.contextmanager
def _fetched(folder: Folder, name: str) -> Iterator[Path]:
    """A local path of the file, for as long as it is needed."""
    fs, path = url_to_fs(folder.file(name))
    if isinstance(fs, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / Path(name).name
        fs.get_file(path, str(local))
        yield local


def _chunks(values: list[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some
