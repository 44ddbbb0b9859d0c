"""Stores of every kind, and one Ray for all tests of the engine that do not kill it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pipelines.core.store import Store
from tests.core.toys import BEHAVIOURS_FILE
from tests.s3 import bucket


@pytest.fixture(scope="package")
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


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "trace"
    monkeypatch.setenv(BEHAVIOURS_FILE, str(folder))
    return folder


@pytest.fixture(scope="package")
def s3() -> Iterator[str]:
    with bucket() as url:
        yield f"{url}/store"


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    if request.param == "memory":
        return Store(f"memory://{tmp_path.name}")
    return Store(request.getfixturevalue("s3") + f"/{tmp_path.name}")
