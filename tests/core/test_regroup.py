"""When a training takes in more nodes, and in which processes it starts again."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipelines.core import regroup, spares
from pipelines.core.cluster import connected
from pipelines.core.folder import Folder
from pipelines.core.regroup import Regroup, RegroupError, workers_now
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.shards import PoolSettings
from pipelines.core.worker_group import run_worker_group

ELASTIC = Resources(workers=8, min_workers=1)


@pytest.fixture
def spares_started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The spare processes that are asked for, by node, when every step looks for room."""
    started: list[tuple[str, int]] = []
    no_notice = SimpleNamespace(preemption_context=SimpleNamespace(preemption_info=None))
    here = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(regroup, "get_train_context", lambda: no_notice)
    monkeypatch.setattr(regroup.ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(regroup, "start_spares", lambda *call: started.append(call))
    monkeypatch.setattr(regroup, "LOOK_FOR_ROOM_EVERY_S", 0.0)
    return started


def test_a_training_waits_while_more_nodes_come_and_then_takes_in_all_at_once(
    spares_started: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[dict[str, float]] = [{}, {"a": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 2}]
    monkeypatch.setattr(regroup, "room_by_node", lambda resources: looks.pop(0))
    should_stop = Regroup(ELASTIC, rank=0, world_size=2)
    assert [should_stop() for _ in range(4)] == [False, False, False, True]
    assert spares_started == [("here", 1), ("a", 1), ("b", 2)]


def test_a_node_that_goes_again_before_it_was_taken_in_stops_nothing(
    spares_started: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[dict[str, float]] = [{"a": 1}, {}, {}]
    monkeypatch.setattr(regroup, "room_by_node", lambda resources: looks.pop(0))
    should_stop = Regroup(ELASTIC, rank=0, world_size=2)
    assert not any(should_stop() for _ in range(3))


def test_a_training_starts_with_the_room_that_is_there_once_nodes_have_reported_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = [1.0, 3.0, 5.0, 5.0]  # the last workers' nodes report one after the other
    monkeypatch.setattr(regroup, "room", lambda resources: looks.pop(0))
    monkeypatch.setattr(regroup, "SETTLE_S", 0.0)
    assert workers_now(ELASTIC) == 5


def test_a_training_with_a_fixed_number_of_workers_keeps_no_spare_processes(
    spares_started: list[tuple[str, int]],
) -> None:
    assert not Regroup(Resources(workers=8), rank=0, world_size=8)()
    assert not spares_started


def test_a_module_that_cannot_be_imported_leaves_the_spare_process_alive(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(spares.MODULE, "no.such.module")
    spares.preload()
    assert "a spare process could not import no.such.module" in caplog.text


def restart_once(config: Mapping[str, Any]) -> None:
    """Stop when a spare process has had time to start; then write how old the next process is."""
    folder, stopped = Folder(config["folder"]), "stopped.json"
    if not folder.exists(stopped):
        Regroup(config["resources"], rank=0, world_size=1)()
        time.sleep(20)
        folder.write_json(stopped, time.time())
        raise RegroupError("enough")
    started = psutil.Process(os.getpid()).create_time()
    folder.write_json("age.json", folder.read_json(stopped) - started)


@pytest.mark.ray
@pytest.mark.slow
def test_an_elastic_training_starts_again_in_a_process_that_was_started_before(
    shared_ray: str, tmp_path: Path
) -> None:
    folder = Folder(str(tmp_path))
    resources = Resources(workers=1, min_workers=1)
    with connected(ClusterSettings()):
        run_worker_group(
            restart_once,
            {"folder": folder.url, "resources": resources},
            stage="walk",
            folder=folder,
            emit=lambda event: None,
            settings=PoolSettings(resources=resources, retries=1, wait_s=60),
        )
    assert folder.read_json("age.json") > 0
