"""Tracking when the server hangs, or neither the server nor the store takes records."""

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.core.store import Store
from pipelines.tracking import outbox as outbox_module
from pipelines.tracking.outbox import Outbox
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.spool import Record, SpoolFolder
from pipelines.tracking.time_limit import CallTimeoutError, TimeLimitedCaller
from pipelines.tracking.tracker import Tracker
from tests.pipelines.fake_run import losses, plan_of

CLOSE_S = 6.0  # five for the calls, and one for the rest


def run_python(code: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_records_are_called_lost_where_neither_the_database_nor_the_store_can_be_written(
    store: Store,
) -> None:
    ended = run_python(f"""
        import resource, time
        from pipelines.core.store import Store
        from tests.pipelines.fake_run import losses, plan_of
        from tests.pipelines.tracked import begun
        store = Store({store.root!r})
        plan = plan_of(store)
        tracker = begun(store, plan, lambda text: print(text, flush=True))
        tracker.started(plan["fit"])
        # Every write to a file now fails, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        tracker.sent_at = 0
        for event in losses(0, 20):
            tracker.sent_at = 0
            tracker.event(event)
        began = time.monotonic()
        tracker.end("FAILED")
        print("ended after", time.monotonic() - began)
    """)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    *warnings, last = ended.stdout.splitlines()
    assert len(warnings) == 2
    assert warnings[0].startswith("Neither the tracking server (")
    assert "tracking records are lost: neither the tracking server (" in warnings[1]
    assert "kept" not in ended.stdout
    assert float(last.removeprefix("ended after ")) < CLOSE_S
    assert not list(Path(store.root).rglob(".tmp-*"))


def test_an_interrupted_run_ends_in_seconds_although_the_server_does_not_answer(
    store: Store, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    plan, settings = plan_of(store), TrackingSettings(uri=silent_server)
    tracker = Tracker(plan, store, settings, uri=silent_server, warn=said.append)
    monkeypatch.setattr(outbox_module, "SEND_LIMIT_S", 0.3)
    tracker.begin(name="toy", config={})
    tracker.started(plan["fit"])
    tracker.event(losses(0, 1)[0])
    monkeypatch.undo()
    began = time.monotonic()
    tracker.end("KILLED")
    assert time.monotonic() - began < CLOSE_S
    kept = len(SpoolFolder(tracker.outbox.spool.url).load())
    assert f"{kept} tracking records are not sent" in said[-1]
    assert len(said) == 2


def test_an_outbox_closes_on_time_although_server_and_store_both_hang(tmp_path: Path) -> None:
    class HangingSpool(SpoolFolder):
        def add(self, record: Record) -> str:
            time.sleep(60)
            return super().add(record)

    said: list[str] = []
    outbox = Outbox(
        HangingSpool(str(tmp_path)),
        send=lambda record: time.sleep(60),
        answers=lambda: True,
        warn=said.append,
    )
    outbox.hurry(3.0)
    began = time.monotonic()
    for n in range(5):
        outbox.post(Record("text", str(n), {}))
    outbox.close()
    assert time.monotonic() - began < 4.0
    assert said == [
        "5 tracking records are lost: neither the tracking server (no answer within 1 s) nor the "
        "store (no answer within 2 s) takes them."
    ]


def test_calls_of_a_time_limited_caller_take_effect_in_order() -> None:
    caller, effects = TimeLimitedCaller("test"), list[str]()

    def slow() -> None:
        time.sleep(0.4)
        effects.append("slow")

    with pytest.raises(CallTimeoutError, match="no answer"):
        caller.call(slow, within_s=0.1)
    with pytest.raises(CallTimeoutError):
        caller.call(lambda: effects.append("too early"), within_s=0.1)
    caller.call(lambda: effects.append("fast"), within_s=5)
    assert effects == ["slow", "fast"]
    with pytest.raises(ValueError, match="as it is"):
        caller.call(lambda: int("as it is"), within_s=5)


def test_several_processes_open_a_new_database_at_once(tmp_path: Path) -> None:
    code = f"""
        import sys
        from pipelines.core.store import Store
        from pipelines.tracking.preflight import prepare
        from pipelines.tracking.settings import TrackingSettings
        print("ready", flush=True)
        sys.stdin.readline()
        prepare(TrackingSettings(), Store({str(tmp_path)!r}), print)
    """
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for driver in drivers:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write("\n")
        driver.stdin.flush()
    for driver in drivers:
        output, errors = driver.communicate(timeout=120)
        assert (driver.returncode, output) == (0, ""), errors
    assert {p.name for p in tmp_path.iterdir()} == {"mlflow.db"}


def test_a_database_that_cannot_be_opened_is_named_with_advice_that_helps(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database")
    ended = run_python(f"""
        from pipelines.core.store import Store
        from pipelines.tracking.preflight import prepare
        from pipelines.tracking.settings import TrackingSettings
        prepare(TrackingSettings(), Store({str(tmp_path)!r}), print)
    """)
    *_, message = ended.stderr.strip().splitlines()
    assert f"The tracking database {tmp_path}/mlflow.db cannot be used: " in message
    assert "Check that its folder can be written" in message
    assert "Start it" not in message


def test_a_spool_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    root = tmp_path / ".tracking" / "server"
    root.mkdir(parents=True)
    stale, fresh = root / ".tmp-stale", root / ".tmp-fresh"
    for path in (stale, fresh):
        path.write_text("{")
    os.utime(stale, (time.time() - 3600,) * 2)
    Outbox(SpoolFolder(str(root)), send=print, answers=lambda: True, warn=print).close()
    assert (stale.exists(), fresh.exists()) == (False, True)  # another driver may write the fresh
    fresh.unlink()
    Outbox(SpoolFolder(str(root)), send=print, answers=lambda: True, warn=print).close()
    assert list(tmp_path.iterdir()) == []
