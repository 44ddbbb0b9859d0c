"""One Ray for all tests of the engine that do not kill it."""

from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    head = {"num_cpus": 2, "object_store_memory": 2**28, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def shared_ray(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs of this test, those in other processes too, connect to the shared Ray."""
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    return ray_address
