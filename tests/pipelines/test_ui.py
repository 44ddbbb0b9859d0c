import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from pipelines.core.errors import PipelineError
from pipelines.core.store import Store
from pipelines.tracking.preflight import prepare
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.tracker import Tracker
from pipelines.tracking.ui import HOST, running_ui, serve_ui
from tests.pipelines.fake_run import plan_of, whole_run

SETTINGS = TrackingSettings()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def test_a_store_without_runs_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"no runs yet: .*mlflow\.db does not exist"):
        serve_ui(str(tmp_path), SETTINGS, port=free_port())
    with pytest.raises(PipelineError, match="s3://bucket is not on this machine"):
        serve_ui("s3://bucket", SETTINGS, port=free_port())
    with pytest.raises(PipelineError, match="open that address"):
        serve_ui(str(tmp_path), TrackingSettings(uri="http://mlflow:5000"), port=free_port())


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PipelineError, match=f"Port {port} .* cannot be used"):
            serve_ui(str(tmp_path), SETTINGS, port=port)
    with pytest.raises(PipelineError, match="--port 70000 is not a port"):
        serve_ui(str(tmp_path), SETTINGS, port=70000)


def test_runs_and_pictures_of_a_store_are_served_until_ctrl_c(tmp_path: Path) -> None:
    store, port = Store(str(tmp_path / "store")), free_port()
    plan = plan_of(store)
    tracker = Tracker(plan, store, SETTINGS, uri=prepare(SETTINGS, store, print), warn=print)
    tracker.begin(name="toy", config={})
    links = whole_run(tracker, store, plan)
    tracker.end("FINISHED")
    say = "lambda text: print(text, flush=True)"
    call = f"serve_ui({store.root!r}, TrackingSettings(), port={port}, say={say})"
    script = f"from pipelines.tracking.ui import *; {call}"
    served = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    assert f"http://{HOST}:{port}" in served.stdout.readline()
    picture = f"get-artifact?path=samples/step_000010.png&run_uuid={links['fit']['mlflow_run_id']}"
    with urllib.request.urlopen(f"http://{HOST}:{port}/{picture}") as answer:
        assert answer.read().startswith(b"\x89PNG")
    os.kill(served.pid, signal.SIGINT)
    assert served.wait(30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex((HOST, port)) != 0


def test_a_server_that_cannot_start_says_why_and_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database")
    started = time.monotonic()
    with (
        pytest.raises(PipelineError, match="did not start"),
        running_ui(str(tmp_path), SETTINGS, port=free_port()),
    ):
        pass
    assert time.monotonic() - started < 60
