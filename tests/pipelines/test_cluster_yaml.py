"""`ray_cluster.yaml`: valid by Ray's own schema, with a node type for every kind of stage."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.core.resources import Resources, fits

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    return loaded


def node_types_for(cluster: dict[str, Any], resources: Resources) -> set[str]:
    """The node types on which one worker of a stage fits."""
    types = cluster["available_node_types"]
    return {n for n, t in types.items() if fits(resources.per_worker(), t["resources"])}


def test_rays_own_schema_accepts_the_file(cluster: dict[str, Any]) -> None:
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert "wheels" not in json.dumps(prepared)  # Ray's defaults would install a nightly build
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "unheard_of": 1}, schema)


def test_every_kind_of_stage_has_one_node_type(cluster: dict[str, Any]) -> None:
    assert node_types_for(cluster, Resources(cpus=1, custom={"data": 1})) == {"data"}
    assert node_types_for(cluster, Resources(cpus=8, gpus=1)) == {"gpu"}
    assert "head" not in node_types_for(cluster, Resources(cpus=1))


def test_the_workers_may_grow_to_a_hundred_gpus(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    workers = {name: t for name, t in types.items() if name != cluster["head_node_type"]}
    assert sum(t["max_workers"] for t in workers.values()) == cluster["max_workers"]
    assert sum(t["max_workers"] * t["resources"].get("GPU", 0) for t in workers.values()) >= 100


def test_every_node_starts_with_tokens_on_and_the_dashboard_hidden(cluster: dict[str, Any]) -> None:
    starts = [
        command
        for role in ("head", "worker")
        for command in cluster[f"{role}_start_ray_commands"]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]


def test_the_nodes_install_the_lock_and_run_the_ray_in_it(cluster: dict[str, Any]) -> None:
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    assert f"ray=={ray.__version__}" in lock
    images = [cluster["docker"]["head_image"], cluster["docker"]["worker_image"]]
    images += [
        t["docker"]["worker_image"]
        for t in cluster["available_node_types"].values()
        if "docker" in t
    ]
    assert {image.split(":")[1].split("-")[0] for image in images} == {ray.__version__}
    [mounted] = [m for m in cluster["file_mounts"] if m.endswith("requirements.lock")]
    assert (ROOT / cluster["file_mounts"][mounted]).is_file()
    assert any(mounted in command for command in cluster["setup_commands"])
