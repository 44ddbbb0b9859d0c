import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pipelines.core.errors import PipelineError
from pipelines.core.events import Metrics, Note, Output
from pipelines.core.plan import Plan
from pipelines.core.store import Store
from pipelines.tracking import Tracker, TrackingSettings, prepare, tracking_uri
from pipelines.tracking_records import fact_numbers, flatten, place, safe_name, step_of
from pipelines.tracking_spool import Outbox, Record, SpoolFolder
from tests.pipelines.fake_run import draw, finish, losses, plan_of, tell, whole_run
from unclip.config import ConfigError

HOST = "127.0.0.1"
SETTINGS = TrackingSettings()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without experiments, to copy: migrating takes seconds."""
    folder = tmp_path_factory.mktemp("database")
    MlflowClient(tracking_uri(SETTINGS, Store(str(folder)))).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, database: Path) -> Store:
    (tmp_path / "store").mkdir()
    shutil.copy(database, tmp_path / "store")
    return Store(str(tmp_path / "store"))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def begun(
    store: Store, plan: Plan, warn: Callable[[str], None], settings: TrackingSettings = SETTINGS
) -> Tracker:
    tracker = Tracker(plan, store, settings, uri=tracking_uri(settings, store), warn=warn)
    tracker.begin(name="toy", config={"models": {"fit": {"width": 8}}}, command="unclip run toy")
    return tracker


def runs(client: MlflowClient, name: str = "unclip") -> list[Run]:
    """All runs in the order in which they were opened."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    order = ["attributes.start_time ASC"]
    return list(client.search_runs([experiment.experiment_id], order_by=order))


def artifacts(client: MlflowClient, run_id: str, path: str | None = None) -> set[str]:
    found: set[str] = set()
    for item in client.list_artifacts(run_id, path):
        found |= artifacts(client, run_id, item.path) if item.is_dir else {item.path}
    return found


def history(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run_id, metric)]


def test_a_pipeline_is_a_parent_run_with_a_child_for_each_stage_that_the_manifests_link_to(
    store: Store,
) -> None:
    said: list[str] = []
    client = MlflowClient(prepare(SETTINGS, store, said.append))
    plan = plan_of(store)
    tracker = begun(store, plan, said.append)
    links = whole_run(tracker, store, plan)
    tracker.end("FINISHED")
    assert said == []

    parent, *children = runs(client)
    assert [c.info.run_name for c in children] == ["pairs", "fit", "check"]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert {r.info.status for r in (parent, *children)} == {"FINISHED"}
    for child in children:
        manifest = store.manifests(child.info.run_name)[0]
        assert manifest.links == links[manifest.stage]
        assert manifest.links["mlflow_run_id"] == child.info.run_id
        assert child.data.tags["stage_key"] == manifest.key
        logged = client.download_artifacts(child.info.run_id, "manifest.json")
        assert json.loads(Path(logged).read_text())["key"] == manifest.key

    assert parent.info.run_name.startswith("toy ")
    assert parent.data.params == {"models.fit.width": "8"}
    assert parent.data.tags["command"] == "unclip run toy"
    assert parent.data.metrics["check/fid"] == 12.5
    assert artifacts(client, parent.info.run_id) == {"report/report.html"}
    for child in children:
        assert f"/runs/{child.info.run_id}" in parent.data.tags["mlflow.note.content"]


def test_a_stage_page_has_params_metrics_pictures_model_data_sets_and_notes(store: Store) -> None:
    client = MlflowClient(prepare(SETTINGS, store, print))
    plan = plan_of(store)
    tracker = begun(store, plan, print)
    links = whole_run(tracker, store, plan)
    tracker.end("FINISHED")
    pairs, fit = (client.get_run(links[s]["mlflow_run_id"]) for s in ("pairs", "fit"))

    assert fit.data.params["config.learning_rate"] == "0.001"
    assert fit.data.params["inputs.pairs"] == plan["pairs"].stage.label
    assert history(client, fit.info.run_id, "train/loss") == [(s, 1 / (s + 1)) for s in range(20)]
    assert fit.data.metrics["result/final_loss"] == 0.25
    assert fit.data.metrics["result/duration_s"] == 61.5
    files = artifacts(client, fit.info.run_id)
    assert {"samples/step_000010.png", "samples/step_000020.png"} <= files
    assert "model/model.safetensors" in files
    assert any(file.startswith("images/samples+step+20") for file in files)
    assert "A model fitted to the pairs." in fit.data.tags["mlflow.note.content"]

    (made,), (used,) = pairs.inputs.dataset_inputs, fit.inputs.dataset_inputs
    assert made.dataset.digest == used.dataset.digest == plan["pairs"].stage.key
    assert json.loads(made.dataset.profile)["num_rows"] == 7
    assert [i.tags[0].value for i in (made, used)] == ["output", "input"]
    assert pairs.data.metrics["result/counts/rejected/small"] == 2
    notes = Path(client.download_artifacts(pairs.info.run_id, "notes.txt")).read_text()
    assert "a worker died" in notes


def test_a_cached_stage_links_to_the_run_that_made_it(store: Store) -> None:
    client = MlflowClient(prepare(SETTINGS, store, print))
    first = begun(store, plan_of(store), print)
    links = whole_run(first, store, plan_of(store))
    first.end("FINISHED")
    changed = plan_of(store, width=16)
    second = begun(store, changed, print)
    tell(second, store, changed, "fit")
    second.end("FINISHED")
    parent = next(r for r in runs(client)[4:] if r.info.run_name.startswith("toy"))
    made_by, key = links["pairs"]["mlflow_run_id"], changed["pairs"].stage.key
    assert parent.data.tags["cached.pairs"] == f"run {made_by}, key {key}"
    assert f"/runs/{made_by}" in parent.data.tags["mlflow.note.content"]
    assert "width: 8 → 16" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["pairs/rows"] == 7


def test_a_model_above_the_limit_is_a_link_to_the_store(store: Store) -> None:
    settings = TrackingSettings(max_artifact_mb=0)
    client = MlflowClient(prepare(settings, store, print))
    plan = plan_of(store)
    tracker = begun(store, plan, print, settings)
    links = tell(tracker, store, plan, "fit")
    tracker.end("FINISHED")
    run = client.get_run(links["mlflow_run_id"])
    folder = store.folder("fit", plan["fit"].stage.key)
    assert run.data.tags["model.model.safetensors"] == folder.file("model.safetensors")
    assert not any(f.startswith("model/") for f in artifacts(client, run.info.run_id))


def test_a_failed_stage_shows_its_error_and_an_interrupted_one_is_killed(store: Store) -> None:
    client = MlflowClient(prepare(SETTINGS, store, print))
    plan = plan_of(store)
    tracker = begun(store, plan, print)
    tracker.started(plan["pairs"])
    tracker.started(plan["fit"])
    tracker.event(losses(0, 1)[0])
    tracker.failed(plan["pairs"], PipelineError("the list is gone"))
    tracker.end("FAILED")
    parent, pairs, fit = runs(client)
    statuses = [r.info.status for r in (parent, pairs, fit)]
    assert statuses == ["FAILED", "FAILED", "KILLED"]
    assert "the list is gone" in pairs.data.tags["error"]
    assert fit.data.metrics["train/loss"] == 1.0


def test_a_stage_that_goes_on_after_a_killed_driver_closes_the_run_that_was_left_open(
    store: Store,
) -> None:
    client = MlflowClient(prepare(SETTINGS, store, print))
    plan = plan_of(store)
    left = begun(store, plan, print).started(plan["fit"])  # and never heard of again
    links = tell(begun(store, plan, print), store, plan, "fit")
    assert client.get_run(left["mlflow_run_id"]).info.status == "KILLED"
    again = client.get_run(links["mlflow_run_id"])
    assert again.data.tags["continues"] == left["mlflow_run_id"]
    assert [r.info.status for r in runs(client) if r.info.run_name.startswith("toy")] == [
        "KILLED",
        "RUNNING",
    ]


class RealServer:
    """`mlflow server` on a fixed port, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://{HOST}:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--workers", "1"]
        command += [
            "--port",
            str(self.port),
            "--backend-store-uri",
            f"sqlite:///{self.folder}/s.db",
        ]
        command += ["--artifacts-destination", f"{self.folder}/served"]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(database, folder)
    ours = RealServer(folder)
    yield ours
    ours.kill()


def test_a_run_without_its_server_is_told_to_it_by_the_next_run(
    store: Store, server: RealServer
) -> None:
    server.kill()
    with pytest.raises(PipelineError, match=rf"{server.uri} does not answer.*run\.tracking\.uri"):
        prepare(TrackingSettings(uri=server.uri), store, print)
    said: list[str] = []
    settings = TrackingSettings(uri=server.uri, required=False)
    uri = prepare(settings, store, said.append)
    assert "does not answer" in said[0]
    missed = begun(store, plan_of(store), said.append, settings)
    links = whole_run(missed, store, plan_of(store))
    missed.end("FINISHED")
    assert links == {"pairs": {}, "fit": {}, "check": {}}
    assert "sent when the next run starts" in said[-1]

    server.start()
    following = begun(store, plan_of(store), said.append, settings)
    following.end("FINISHED")
    assert following.outbox.spool.load() == []
    client = MlflowClient(uri)
    parent, *children, last = runs(client)
    assert [c.info.run_name for c in children] == ["pairs", "fit", "check"]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert {r.info.status for r in (parent, *children, last)} == {"FINISHED"}
    fit = children[1].info.run_id
    assert history(client, fit, "train/loss") == [(s, 1 / (s + 1)) for s in range(20)]
    assert "model/model.safetensors" in artifacts(client, fit)
    assert parent.info.end_time < last.info.start_time  # the times are those of what happened
    # Found by its key, since the manifest was written without a link.
    assert last.data.tags["cached.fit"].startswith(f"run {fit},")


def test_what_a_server_missed_while_it_was_killed_is_sent_in_order_when_it_is_back(
    store: Store, server: RealServer
) -> None:
    server.start()
    settings = TrackingSettings(uri=server.uri, experiment="killed")
    said, clock = list[str](), Clock()
    uri = prepare(settings, store, said.append)
    plan = plan_of(store)
    tracker = Tracker(plan, store, settings, uri=uri, warn=said.append, clock=clock)
    tracker.outbox.clock = clock
    tracker.begin(name="toy", config={"a": 1})
    assert tracker.url is not None
    tell(tracker, store, plan, "pairs")
    fit = tracker.started(plan["fit"])
    for event in losses(0, 5):
        clock.now += 10
        tracker.event(event)

    server.kill()
    clock.now += 10
    tracker.event(losses(5, 6)[0])  # the first to fail
    asked: list[Record] = []
    send, tracker.outbox.send = tracker.outbox.send, asked.append
    clock.now += 1
    for event in [*losses(6, 8), Note("fit", "still works")]:
        tracker.event(event)
    assert asked == []  # a server that failed a moment ago is not asked again
    tracker.outbox.send = send
    tracker.event(draw(store, plan, "samples/step_000007.png", "red"))
    tracker.finished(finish(store, plan, "fit", dict(fit)))
    assert tracker.started(plan["check"]) == {}  # opened later
    assert len(said) == 1
    assert "does not answer" in said[0]
    kept = len(tracker.outbox.spool.load())
    assert kept == len(tracker.outbox.waiting) > 5

    server.start()
    client = MlflowClient(uri)
    clock.now += 1000
    tracker.event(Metrics("check", 0, {"score": 0.5}))
    assert tracker.outbox.spool.load() == []
    assert "answers again" in said[1]
    assert history(client, fit["mlflow_run_id"], "train/loss") == [
        (s, 1 / (s + 1)) for s in range(8)
    ]
    assert "samples/step_000007.png" in artifacts(client, fit["mlflow_run_id"])
    assert client.get_run(fit["mlflow_run_id"]).info.status == "FINISHED"
    tracker.finished(finish(store, plan, "check", {}))
    tracker.end("FINISHED")
    parent, *children = runs(client, "killed")
    assert [c.info.run_name for c in children] == ["pairs", "fit", "check"]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert {r.info.status for r in (parent, *children)} == {"FINISHED"}
    assert len(said) == 2


def test_what_a_server_refuses_does_not_hold_up_the_rest(store: Store) -> None:
    said: list[str] = []
    client = MlflowClient(prepare(SETTINGS, store, print))
    plan = plan_of(store)
    tracker = begun(store, plan, said.append)
    tracker.started(plan["fit"])
    tracker.event(Output("fit", "samples/never_drawn.png"))
    tracker.finished(finish(store, plan, "fit", {}))
    tracker.end("FINISHED")
    assert {r.info.status for r in runs(client)} == {"FINISHED"}
    assert "never_drawn.png" in said[0]
    assert "1 records" in said[-1]
    begun(store, plan_of(store), said.append).end("FINISHED")
    assert "given up" in said[-1]
    assert tracker.outbox.spool.load() == []


def test_an_outbox_keeps_the_order_and_asks_less_and_less_often(tmp_path: Path) -> None:
    sent: list[str] = []
    asked: list[float] = []
    up, clock = [False], Clock()

    def send(record: Record) -> None:
        asked.append(clock.now)
        if not up[0]:
            raise ConnectionError("refused")
        sent.append(record.run)

    def outbox() -> Outbox:
        spool = SpoolFolder(str(tmp_path))
        return Outbox(spool, send=send, answers=lambda: up[0], warn=print, clock=clock)

    first = outbox()
    for n in range(600):
        first.post(Record("text", f"{n:04d}", {}))
        clock.now += 1
    assert len(asked) < 15
    second = outbox()  # the first was killed without a word
    up[0] = True
    second.post(Record("text", "0600", {}))
    assert sent == [f"{n:04d}" for n in range(601)]
    assert outbox().waiting == type(second.waiting)()


def test_a_remote_store_needs_a_server_and_a_deleted_experiment_is_named(store: Store) -> None:
    with pytest.raises(PipelineError, match=r"s3://bucket.*run\.tracking\.uri"):
        prepare(SETTINGS, Store("s3://bucket"), print)
    client = MlflowClient(prepare(SETTINGS, store, print))
    experiment = client.get_experiment_by_name("unclip")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(PipelineError, match="'unclip' was deleted"):
        prepare(SETTINGS, store, print)
    with pytest.raises(ConfigError, match="experiment is empty"):
        TrackingSettings(experiment=" ")


def test_settings_and_facts_become_flat_names_and_numbers() -> None:
    given = {"a": {"b": 1, "c": (1, 2)}, "models": [{"width": 8}, {"width": 4}], "x": None}
    assert flatten(given) == {
        "a.b": "1",
        "a.c": "[1, 2]",
        "models.0.width": "8",
        "models.1.width": "4",
        "x": "null",
    }
    facts = {"name": "a", "ok": True, "rows": {"0": 2, "1": 3}, "metrics": {"fid@10k": 1}}
    assert fact_numbers(facts) == {"rows": 5, "shards": 2, "fid_10k": 1}
    assert safe_name("/../a//b") == "a/b"
    assert [place(f) for f in ("a/b.PNG", "report.html", "m.safetensors", "x.csv")] == [
        "samples",
        "report",
        "model",
        "files",
    ]
    assert [step_of(f) for f in ("s/step_0010.png", "grid.png")] == [10, None]
