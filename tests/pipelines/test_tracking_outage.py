import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.core.errors import PipelineError
from pipelines.core.events import Metrics, Note, Output
from pipelines.core.store import Store
from pipelines.tracking.outbox import Outbox
from pipelines.tracking.preflight import prepare
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.spool import Record, SpoolFolder
from pipelines.tracking.tracker import Tracker
from tests.pipelines.fake_run import draw, finish, losses, plan_of, tell, whole_run
from tests.pipelines.tracked import SETTINGS, artifacts, begun, history, runs

HOST = "127.0.0.1"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


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
                # Not /health, which answers before the server can use its database.
                found = f"{self.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
                urllib.request.urlopen(found, timeout=30).close()
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


def test_the_next_run_sends_the_records_of_a_run_without_its_server(
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
    assert "the next run sends them" in said[-1]

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


def test_records_made_while_the_server_was_down_are_sent_in_order_when_it_is_back(
    store: Store, server: RealServer
) -> None:
    server.start()
    settings = TrackingSettings(uri=server.uri, experiment="killed")
    said, clock = list[str](), Clock()
    uri = prepare(settings, store, said.append)
    plan = plan_of(store)
    tracker = Tracker(plan, store, settings, uri=uri, warn=said.append, clock=clock)
    tracker.outbox.server.clock = tracker.outbox.store.clock = clock
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


def test_a_record_that_the_server_refuses_does_not_delay_the_others(store: Store) -> None:
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
    assert "1 tracking record is not sent" in said[-1]
    begun(store, plan_of(store), said.append).end("FINISHED")
    assert "not sent again" in said[-1]
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
