"""Nodes that leave and join in the middle of a training, on a real cluster of several nodes."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from pipelines.core import regroup, worker_group
from pipelines.core.cluster import connected
from pipelines.core.events import Event, Note
from pipelines.core.folder import Folder
from pipelines.core.regroup import Regroup, RegroupError
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.shards import PoolSettings
from tests.core.processes import until

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # Ray Train starts its workers three times
NODE = {"num_cpus": 1, "object_store_memory": 2**27}
STEPS = 60


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that holds a worker, and one more node."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def walk(config: Mapping[str, Any]) -> None:
    """Takes steps, each of which rank 0 writes down; stops when all ranks have agreed to."""
    import torch
    from ray import train
    from torch import distributed

    folder, rank = Folder(config["folder"]), train.get_context().get_world_rank()
    workers = train.get_context().get_world_size()
    taken = folder.marks(".steps")
    regroup.LOOK_FOR_ROOM_EVERY_S = 2.0  # in this worker's process
    should_stop = Regroup(config["resources"], rank, workers)
    start = max((int(name.split("/")[1].split("-")[0]) for name in taken), default=-1) + 1
    for step in range(start, STEPS):
        time.sleep(0.5)
        if rank == 0:
            folder.write_bytes(f".steps/{step:03d}-of-{workers}-from-{start}", b"")
        stops = torch.tensor([float(should_stop())])
        distributed.all_reduce(stops)
        if stops:
            raise RegroupError(f"stopped after step {step}: {should_stop.reason}")


def drain(cluster: Cluster, node_id: str) -> None:
    """Announce that a node is taken away in 20 seconds, as a reclaimed spot machine is."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    command += ["--address", cluster.address, "--node-id", node_id, "--reason-message", "spot"]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds", "20"]
    subprocess.run(command, check=True, capture_output=True)


def workers_of(folder: Folder) -> list[int]:
    """The number of workers that took each step, in the order of steps."""
    return [int(name.split("-")[2]) for name in sorted(folder.marks(".steps"))]


@pytest.mark.timeout(240)
def test_a_training_goes_on_with_the_nodes_that_stay_and_takes_in_new_ones(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder, events = Folder(str(tmp_path)), list[Event]()
    # Ray's messages about lost processes must not count: no restart is allowed without progress.
    settings = PoolSettings(resources=Resources(workers=2, min_workers=1), retries=1, wait_s=60)
    with connected(ClusterSettings()), ThreadPoolExecutor(1) as threads:
        training = threads.submit(
            worker_group.run_worker_group,
            walk,
            {"folder": folder.url, "resources": settings.resources},
            stage="walk",
            folder=folder,
            emit=events.append,
            settings=settings,
        )
        until(lambda: training.done() or len(workers_of(folder)) > 2, timeout_s=90)
        (other,) = cluster.worker_nodes
        drain(cluster, other.node_id)
        until(lambda: training.done() or 1 in workers_of(folder), timeout_s=90)
        cluster.remove_node(other)
        cluster.add_node(**NODE)
        training.result()
    steps = folder.marks(".steps")
    assert [int(name.split("/")[1].split("-")[0]) for name in sorted(steps)] == list(range(STEPS))
    workers = workers_of(folder)
    assert (workers[0], min(workers), workers[-1]) == (2, 1, 2)
    notes = " ".join(event.text for event in events if isinstance(event, Note))
    assert re.search("the node of rank [01] is leaving the cluster", notes)
    assert "there is room for more workers than 1" in notes
