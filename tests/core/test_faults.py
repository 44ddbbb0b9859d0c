"""Faults of the machine below a run: Ray, the disk, another driver. Real processes really die."""

import getpass
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray._private.state import state
from ray.cluster_utils import Cluster

from pipelines.core.errors import EXIT_WORK_LOST
from pipelines.core.events import Note
from pipelines.core.folder import Folder
from pipelines.core.graph import Graph
from pipelines.core.placement import CONTROLLER_FILE
from pipelines.core.plan import Scope, make_plan
from pipelines.core.stage import Shards, load_artifact
from pipelines.core.store import Store
from tests.core import limited
from tests.core.processes import child, is_one_paragraph, start, until
from tests.core.test_runner import Recorder, graph, run
from tests.core.toys import Walk, traces

pytestmark = pytest.mark.ray


def shards_done(root: Path) -> int:
    return len(list(root.glob("count/shards/*.parquet")))


def kill_controller(folder: Folder) -> None:
    until(lambda: folder.exists(".walk/step.json") and folder.read_json(".walk/step.json") >= 3)
    actor = state.actor_table(folder.read_json(CONTROLLER_FILE))
    os.kill(actor["Pid"], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_killed_controller_costs_a_retry_and_leaves_no_cpu_reserved(
    tmp_path: Path, trace: Path
) -> None:
    store, recorder = Store(str(tmp_path / "store")), Recorder()
    walk = Graph([Walk(steps=8)])
    folder = store.folder("walk", walk["walk"].key)
    killer = threading.Thread(target=kill_controller, args=[folder])
    killer.start()
    run(store, walk, recorder=recorder)
    killer.join()
    assert load_artifact(store, walk["walk"]).metadata()["resumed_at"] >= 3
    assert any("controller died" in e.text for e in recorder.events if isinstance(e, Note))


@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_dead_ray_ends_the_driver_within_seconds_and_in_one_sentence(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, process: str
) -> None:
    monkeypatch.setenv("TOY_COUNT", "pause_s=90")
    driver = start(tmp_path / "store", "sum")
    until(lambda: traces(trace, "count"))
    child(driver.pid, process).kill()
    killed_at = time.monotonic()
    _, err = driver.communicate(timeout=60)
    assert time.monotonic() - killed_at < 30  # Ray alone: 60 s without its control service
    assert driver.returncode == EXIT_WORK_LOST
    assert is_one_paragraph(err), err
    assert "has ended, and the run with it" in err


@pytest.mark.slow
def test_ctrl_c_works_while_a_cluster_has_no_control_service(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = {"num_cpus": 2, "object_store_memory": 2**28, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        monkeypatch.setenv("TOY_COUNT", "pause_s=90")
        driver = start(tmp_path / "store", "sum")
        until(lambda: traces(trace, "count"))
        cluster.head_node.kill_gcs_server()
        time.sleep(4)
        assert driver.poll() is None  # a cluster may start its control service again
        driver.send_signal(signal.SIGINT)
        asked_at = time.monotonic()
        _, err = driver.communicate(timeout=60)
        assert driver.returncode == 130, err
        assert time.monotonic() - asked_at < 20
    finally:
        cluster.shutdown()


@dataclass(frozen=True)
class SmallDisk:
    """A file system of 8 MB: one of the kernel's, or a pretended one where we may not mount."""

    place: Path
    mounted: bool

    @property
    def store(self) -> str:
        return f"{'' if self.mounted else 'limited://'}{self.place}/store"

    def turn_read_only(self) -> None:
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,ro", self.place], check=True)
        else:
            (self.place / limited.READ_ONLY).touch()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={limited.MOST_BYTES}", "tmpfs", place]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    yield SmallDisk(place, mounted)
    if mounted:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.usefixtures("shared_ray")
def test_a_full_disk_stops_the_run_with_one_paragraph(disk: SmallDisk, trace: Path) -> None:
    driver = start(disk.store, "large")
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 2
    assert is_one_paragraph(err), err
    assert "No space left on device" in err
    assert "Free some space" in err
    assert out.split("\n")[:2] == ["start count", "fail count"]  # and not the independent walk
    assert not list(disk.place.rglob(".tmp-*"))  # half a file would keep the disk full


@pytest.mark.usefixtures("shared_ray")
def test_a_store_that_turns_read_only_stops_the_run(
    disk: SmallDisk, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_COUNT", "pause_s=1")
    driver = start(disk.store, "sum")
    until(lambda: shards_done(disk.place / "store"))
    disk.turn_read_only()
    turned_at = time.monotonic()
    out, err = driver.communicate(timeout=120)
    assert time.monotonic() - turned_at < 20
    assert driver.returncode == 2
    assert is_one_paragraph(err), err
    assert "Read-only file system" in err
    assert out.split("\n")[:2] == ["start count", "fail count"]


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("again", [["force=count"], pytest.param([], marks=pytest.mark.slow)])
def test_a_forced_stage_whose_driver_was_killed_goes_on_with_its_new_shards(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, again: list[str]
) -> None:
    root = tmp_path / "store"
    assert start(root, "sum").wait(timeout=60) == 0
    monkeypatch.setenv("TOY_COUNT", "pause_s=1")
    driver = start(root, "sum", "force=count", "expiry_s=3")
    until(lambda: shards_done(root) >= 5)  # of the four old and four new ones
    driver.kill()
    driver.wait()
    finished = {path.stem for path in root.glob("count/shards/*@*.parquet")}
    monkeypatch.setenv("TOY_COUNT", "")
    assert start(root, "sum", *again, "expiry_s=3").wait(timeout=60) == 0
    (made,) = Store(str(root)).manifests("count")
    assert len(made.shards) == 4
    assert {name.partition("@")[2].removesuffix(".parquet") for name in made.shards} == {
        stem.partition("@")[2] for stem in finished
    }
    assert min(traces(trace, "count").values()) == 2  # what was finished was not made again


@pytest.mark.usefixtures("shared_ray")
def test_one_lost_and_one_damaged_shard_are_made_again_and_no_other(
    tmp_path: Path, trace: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    run(store, graph())
    made = store.manifests("add")[0]
    added = load_artifact(store, graph()["add"])
    assert isinstance(added, Shards)
    Path(added.url("00001")).unlink()
    Path(added.url("00002")).write_bytes(b"cut short")
    run(store, graph())
    assert traces(trace, "add") == {"00000": 1, "00001": 2, "00002": 2, "00003": 1}
    again = store.manifests("add")[0]
    assert again.metadata == made.metadata
    assert store.missing_outputs(again) == []
    assert traces(trace, "sum") == {"all": 1}


@pytest.mark.usefixtures("shared_ray")
def test_a_second_driver_waits_for_the_first_or_leaves_by_choice(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_COUNT", "pause_s=3")
    root = tmp_path / "store"
    first = start(root, "sum")
    until(lambda: list(root.glob(".leases/count/*.json")))
    planned = make_plan(graph(), Store(str(root)), Scope())["count"]
    assert planned.reason.startswith(f"is being made by {getpass.getuser()}@")
    leaving, waiting = start(root, "sum", "on_busy=leave"), start(root, "sum")
    _, err = leaving.communicate(timeout=60)
    assert leaving.returncode == 2
    assert f"Stage count is being made by {getpass.getuser()}@" in err
    assert f"(process {first.pid}) since 20" in err
    out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, err
    assert "note count waits: " in out
    first.communicate(timeout=60)
    assert first.returncode == 0
    for stage in ("count", "add"):
        assert set(traces(trace, stage).values()) == {1}
    assert traces(trace, "sum") == {"all": 1}
    assert not list(root.glob(".leases/*/*.json"))


@pytest.mark.usefixtures("shared_ray")
def test_a_lease_of_a_dead_driver_is_taken_over_at_once(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_COUNT", "pause_s=3")
    root = tmp_path / "store"
    first = start(root, "sum")
    until(lambda: shards_done(root))
    second = start(root, "sum")
    until(lambda: "note count waits" in (second.stdout.readline() if second.stdout else ""))
    first.kill()
    first.communicate()
    killed_at = time.monotonic()
    until(lambda: f'"pid": {second.pid}' in next(iter(root.glob(".leases/*/*.json"))).read_text())
    assert time.monotonic() - killed_at < 30  # and not the 60 s of its expiry
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_driver_that_was_stopped_too_long_loses_its_lease_and_ends(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_COUNT", "pause_s=4")
    root = tmp_path / "store"
    first = start(root, "sum", "expiry_s=6")
    until(lambda: shards_done(root))
    first.send_signal(signal.SIGSTOP)
    second = start(root, "sum", "expiry_s=6")
    until(lambda: f'"pid": {second.pid}' in next(iter(root.glob(".leases/*/*.json"))).read_text())
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == EXIT_WORK_LOST
    assert is_one_paragraph(err), err
    assert "lost the lease of count/" in err
    assert f"(process {second.pid})" in err
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
