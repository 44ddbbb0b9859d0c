"""What a failed worker group counts as, and what becomes of the room that it held."""

from pathlib import Path

import pytest
import ray
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.util.placement_group import placement_group

from pipelines.core import worker_group
from pipelines.core.cluster import connected
from pipelines.core.errors import WorkLostError
from pipelines.core.events import Event, Note
from pipelines.core.folder import Folder
from pipelines.core.placement import CONTROLLER_FILE, release_left_behind, waits_for_room
from pipelines.core.regroup import workers_now
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.shards import PoolSettings
from pipelines.core.worker_group import raised_by_function, run_worker_group
from tests.core.processes import until
from tests.core.toys import walk
from unclip.config import ConfigError

DISCONNECTED = RuntimeError("[gloo] Connection closed by peer")
GONE = WorkerHealthCheckFailedError("health check failed", RuntimeError("actor died"))


@pytest.mark.parametrize("failures", [[GONE], [DISCONNECTED, GONE], [GONE, DISCONNECTED], []])
def test_a_lost_process_is_no_error_of_the_function_whatever_its_peers_then_see(
    failures: list[Exception],
) -> None:
    assert raised_by_function(failures) is None


def test_of_several_errors_that_of_the_function_is_told_and_not_that_of_a_connection() -> None:
    own = ConfigError("no such shard")
    assert raised_by_function([DISCONNECTED, own]) is own
    assert raised_by_function([own, DISCONNECTED]) is own
    assert raised_by_function([DISCONNECTED]) is DISCONNECTED


@ray.remote(num_cpus=0)
class Reserver:
    """Reserves CPUs and never lets go, as a controller that hangs does."""

    def __init__(self, bundles: int) -> None:
        self.group = placement_group([{"CPU": 1}] * bundles)

    def actor_id(self) -> str:
        return ray.get_runtime_context().get_actor_id()


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0)


@pytest.mark.ray
def test_room_that_a_lost_training_left_reserved_is_released(
    shared_ray: str, tmp_path: Path
) -> None:
    folder = Folder(str(tmp_path))
    with connected(ClusterSettings()):
        assert release_left_behind(folder) == 0  # no controller has started
        reserver = Reserver.remote(2)
        folder.write_json(CONTROLLER_FILE, ray.get(reserver.actor_id.remote()))
        until(lambda: free_cpus() == 0)
        assert not waits_for_room(folder)
        other = Reserver.remote(1)
        waiting = Folder(str(tmp_path / "other"))
        waiting.write_json(CONTROLLER_FILE, ray.get(other.actor_id.remote()))
        until(lambda: waits_for_room(waiting))
        assert release_left_behind(folder) == 1
        until(lambda: not waits_for_room(waiting))  # the other one got its place
        assert free_cpus() == 1


@pytest.mark.ray
def test_a_training_with_min_workers_starts_with_as_many_as_there_is_room_for(
    shared_ray: str,
) -> None:
    elastic = Resources(workers=3, min_workers=1)
    with connected(ClusterSettings()):
        until(lambda: free_cpus() == 2)
        assert workers_now(elastic) == 2
        assert workers_now(Resources(workers=3)) == 3
        reserver = Reserver.remote(2)
        ray.get(reserver.actor_id.remote())
        until(lambda: free_cpus() == 0)
        assert workers_now(elastic) == 1


@pytest.mark.parametrize("fewest", [0, 3])
def test_min_workers_lies_between_one_and_workers(fewest: int) -> None:
    with pytest.raises(ConfigError, match=rf"min_workers={fewest} must be between 1 and workers=2"):
        Resources(workers=2, min_workers=fewest)


@pytest.mark.ray
def test_a_training_that_finds_no_room_says_so_meanwhile_and_does_not_ask_for_less(
    shared_ray: str, tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "8")
    monkeypatch.setattr(worker_group, "NOTE_EVERY_S", 1)
    settings = PoolSettings(resources=Resources(workers=2), retries=1, wait_s=8)
    events: list[Event] = []
    with connected(ClusterSettings()):
        reserver = Reserver.remote(1)
        until(lambda: free_cpus() == 1)
        with pytest.raises(WorkLostError, match=r"CPU 1 of 2.*large enough, but other work") as no:
            run_worker_group(
                walk,
                {},
                stage="walk",
                folder=Folder(str(tmp_path)),
                emit=events.append,
                settings=settings,
            )
        assert ray.get(reserver.actor_id.remote())
    assert "Ask for less" not in str(no.value)
    assert any(isinstance(e, Note) and "waits for room" in e.text for e in events)
