"""The tracking server: carries out records through an MLflow client, without global state.

The only module that imports MLflow. Importing it takes more than a second, so only commands that
track import it.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from mlflow import pyfunc
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from PIL import Image

from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.core.provenance import version
from pipelines.core.store import Store
from pipelines.tracking.location import artifact_root, migration_lock
from pipelines.tracking.run_values import step_of
from pipelines.tracking.spool import Record

log = logging.getLogger(__name__)

OWN_ID = "unclip.id"  # the tag with our own id of a run, by which later processes find it
CHECKED_AT = "unclip.checked_at"  # the tag that is written to see whether the server takes changes
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # pages for training, not for chat
    "mlflow.note.content": "Each pipeline run has one run, with a child run for each stage.",
}
BEST = "best"  # alias of the registered version with the lowest value of its metric
MOST_METRICS, MOST_PAIRS = 1000, 100  # that the server takes in one request
# MLflow logs a traceback for every database error. The outbox reports each outage in one line.
for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
T = TypeVar("T")


class Server:
    """Carries out records. Every method may raise what the MLflow client raises."""

    def __init__(self, uri: str, experiment: str, store: Store) -> None:
        self.uri, self.experiment, self.store = uri, experiment, store
        self.runs: dict[str, str] = {}  # our own id → MLflow's
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None

    @property
    def client(self) -> MlflowClient:
        """The client. The first use creates and migrates the tables of an SQLite database."""
        if self._client is None:
            with migration_lock(self.uri):
                log.info("tracking to %s", self.uri)
                client = MlflowClient(self.uri, self.uri)
                experiments = client.search_experiments(view_type=ViewType.ALL, max_results=2)
                if self.uri.startswith("sqlite") and len(experiments) == 1:
                    _remove_default(client, experiments[0])
            self._client = client
        return self._client

    def answers(self) -> bool:
        """Whether the server is up and takes changes; a full disk may still be readable."""
        now = datetime.now(UTC).isoformat()
        try:
            self.client.set_experiment_tag(self.experiment_id(), CHECKED_AT, now)
        except Exception as error:
            log.debug("%s takes no changes: %s", self.uri, error)
            return False
        return True

    def experiment_id(self) -> str:
        """The experiment's id. Creates the experiment if there is none of its name.

        Raises `PipelineError` if the experiment was deleted.
        """
        if self._experiment_id is None:
            found = self.client.get_experiment_by_name(self.experiment)
            if found is not None and found.lifecycle_stage != "active":
                raise PipelineError(
                    f"The experiment {self.experiment!r} was deleted in {self.uri}. Restore it "
                    "there, or give another with --set run.tracking.experiment=…"
                )
            self._experiment_id = found.experiment_id if found else self._create_experiment()
        return self._experiment_id

    def _create_experiment(self) -> str:
        location = None if self.uri.startswith("http") else artifact_root(self.store)
        try:
            return str(
                self.client.create_experiment(
                    self.experiment, artifact_location=location, tags=EXPERIMENT_TAGS
                )
            )
        except MlflowException:
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)  # another process created it in the meantime

    def carry_out(self, record: Record) -> None:
        """Send one record. Sending the same record again changes nothing."""
        handlers: Mapping[str, Callable[[str, Mapping[str, Any]], None]] = {
            "run": self._open,
            "batch": self._batch,
            "file": self._file,
            "text": self._text,
            "model": self._model,
            "dataset": self._dataset,
            "end": self._end,
        }
        handlers[record.kind](record.run, record.body)

    def run_id(self, run: str) -> str:
        """MLflow's id of a run. Runs of earlier processes are found by their tag.

        Raises `LookupError` if the server does not know the run.
        """
        if run not in self.runs:
            found = self._search(OWN_ID, run)
            if found is None:
                raise LookupError(f"run {run} was never opened")
            self.runs[run] = found.info.run_id
        return self.runs[run]

    def link(self, run: str) -> dict[str, str]:
        """The ids of a run that this process has opened, for links; empty if it is not open yet."""
        if run not in self.runs or self._experiment_id is None:
            return {}
        return {"mlflow_run_id": self.runs[run], "mlflow_experiment_id": self._experiment_id}

    def link_of_key(self, key: str) -> dict[str, str]:
        """The ids of the latest finished run of a stage key; empty if there is none.

        For manifests that were written without a link, while the server was down.
        """
        found = self._search("stage_key", key, "attributes.status = 'FINISHED'")
        if found is None:
            return {}
        info = found.info
        return {"mlflow_run_id": info.run_id, "mlflow_experiment_id": info.experiment_id}

    def _search(self, tag: str, value: str, also: str = "") -> Run | None:
        query = f"tags.`{tag}` = '{value}'" + (f" and {also}" if also else "")
        newest = ["attributes.start_time DESC"]
        found = self.client.search_runs(
            [self.experiment_id()], query, max_results=1, order_by=newest
        )
        return found[0] if found else None

    def _open(self, run: str, body: Mapping[str, Any]) -> None:
        there = self._search(OWN_ID, run)
        if there is not None:  # it was opened before, and the answer was lost
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
        """Close the runs that a killed driver left open; return a tag with the earlier run's id."""
        earlier = self._search("stage_key", key)
        if earlier is None or earlier.info.status == "FINISHED":
            return {}
        parent = earlier.data.tags.get("mlflow.parentRunId")
        for run_id in filter(None, (earlier.info.run_id, parent)):
            if self.client.get_run(run_id).info.status == "RUNNING":
                self.client.set_terminated(run_id, "KILLED")
        return {"continues": earlier.info.run_id}

    def _batch(self, run: str, body: Mapping[str, Any]) -> None:
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
                self._image(run_id, local)

    def _image(self, run_id: str, local: Path) -> None:
        """Log the image of a step for the metrics page too, which has a slider over the steps."""
        named = local.stem.rstrip("0123456789").strip("_-. ")
        key = "samples" if named in ("", "step") else named
        with Image.open(local) as image:
            self.client.log_image(
                run_id, image.convert("RGB"), key=key, step=step_of(local.name), synchronous=True
            )

    def _model(self, run: str, body: Mapping[str, Any]) -> None:
        """Register a model under the experiment's name; the version with the best metric is `best`.

        The registry holds the small file only, which names the weights in the store.
        """
        name, run_id = self.experiment, self.run_id(run)
        versions = self.client.search_model_versions(f"name = '{name}'")
        if any(version.tags.get("stage_key") == body["key"] for version in versions):
            return
        logged = self.client.create_logged_model(
            self.experiment_id(), name=body["stage"], source_run_id=run_id, model_type="generator"
        )
        with (
            tempfile.TemporaryDirectory() as scratch,
            _fetched(Folder(body["folder"]), body["file"]) as local,
        ):
            path = Path(scratch) / "model"
            pyfunc.save_model(
                path,
                loader_module=body["loader"],
                data_path=str(local),
                signature=_signature(body),
                input_example=pd.DataFrame(body["example"]),
                pip_requirements=[f"unclip=={version('unclip')}"],
            )
            self.client.log_model_artifacts(logged.model_id, str(path))
        self.client.finalize_logged_model(logged.model_id, "READY")
        with contextlib.suppress(MlflowException):  # it exists already
            self.client.create_registered_model(name)
        made = self.client.create_model_version(
            name,
            logged.artifact_location,
            run_id,
            tags={"stage_key": body["key"], "metric": body["metric"], "value": str(body["value"])},
            model_id=logged.model_id,
        )
        same = [each for each in versions if each.tags.get("metric") == body["metric"]]
        if all(body["value"] < float(each.tags["value"]) for each in same):
            self.client.set_registered_model_alias(name, BEST, made.version)

    def _text(self, run: str, body: Mapping[str, Any]) -> None:
        self.client.log_text(self.run_id(run), body["text"], body["path"])

    def _dataset(self, run: str, body: Mapping[str, Any]) -> None:
        used = DatasetInput(
            Dataset(**body["dataset"]), [InputTag("mlflow.data.context", body["use"])]
        )
        self.client.log_inputs(self.run_id(run), [used])

    def _end(self, run: str, body: Mapping[str, Any]) -> None:
        self.client.set_terminated(self.run_id(run), body["status"], body["at_ms"])


def _signature(body: Mapping[str, Any]) -> ModelSignature:
    inputs, outputs = (
        Schema([ColSpec(kind, name) for name, kind in body[side].items()])
        for side in ("inputs", "outputs")
    )
    params = [ParamSpec(name, "long", default) for name, default in body["params"].items()]
    return ModelSignature(inputs, outputs, ParamSchema(params))


def _remove_default(client: MlflowClient, experiment: Experiment) -> None:
    """Remove the empty experiment that MLflow puts into a new database."""
    is_default = experiment.experiment_id == "0" and experiment.lifecycle_stage == "active"
    if is_default and not client.search_runs(["0"], max_results=1):
        client.delete_experiment("0")


@contextlib.contextmanager
def _fetched(folder: Folder, name: str) -> Iterator[Path]:
    """A local path of the file; a remote file is downloaded for the duration of the context."""
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
