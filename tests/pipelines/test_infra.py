"""The files under infra/: their references exist, agree with the lock, and contain no secret."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERAY = sorted((INFRA / "kuberay").glob("*.yaml"))


def cluster_spec(path: Path) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(path.read_text())["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(spec: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each group with its pod."""
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group, group["template"]["spec"]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda p: p.name)
def test_a_kuberay_cluster_runs_the_locked_ray_with_tokens_on(path: Path) -> None:
    spec = cluster_spec(path)
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("path", KUBERAY, ids=lambda p: p.name)
def test_ray_announces_no_more_than_its_pod_has(path: Path) -> None:
    for group, pod in pods(cluster_spec(path)):
        [container] = pod["containers"]
        announced, has = group["rayStartParams"], container["resources"]["requests"]
        assert float(announced["num-cpus"]) <= has["cpu"]
        assert int(announced.get("num-gpus", 0)) == has.get("nvidia.com/gpu", 0)
        assert has["memory"] == container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda p: p.name)
def test_every_volume_that_is_mounted_is_defined(path: Path) -> None:
    for _, pod in pods(cluster_spec(path)):
        defined = {volume["name"] for volume in pod.get("volumes", [])}
        mounted = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])}
        assert mounted == defined


def test_both_kinds_of_cluster_offer_the_same_resources() -> None:
    aws = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["available_node_types"]
    groups = cluster_spec(INFRA / "kuberay" / "raycluster.yaml")["workerGroupSpecs"]
    for group in groups:
        offered = {"CPU"} | ({"GPU"} if "num-gpus" in group["rayStartParams"] else set())
        custom = re.findall(r"\\\"(\w+)\\\"", group["rayStartParams"].get("resources", ""))
        assert offered | set(custom) == set(aws[group["groupName"]]["resources"])
        assert group["maxReplicas"] == aws[group["groupName"]]["max_workers"]


@pytest.mark.parametrize(
    "path", [INFRA / "Dockerfile", INFRA / "mlflow" / "Dockerfile"], ids=["nodes", "mlflow"]
)
def test_an_image_copies_only_files_of_this_checkout(path: Path) -> None:
    copies = re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", path.read_text(), flags=re.MULTILINE)
    assert copies
    missing = [s for line in copies for s in line.split() if not (ROOT / s).exists()]
    assert not missing


def test_the_image_of_the_nodes_starts_from_the_locked_ray() -> None:
    assert f"rayproject/ray:{ray.__version__}-" in (INFRA / "Dockerfile").read_text()


def test_passwords_come_from_the_environment_alone() -> None:
    compose = yaml.safe_load((INFRA / "mlflow" / "compose.yaml").read_text())
    settings = {
        name: value
        for service in compose["services"].values()
        for name, value in service["environment"].items()
        if re.search("PASSWORD|SECRET|KEY|URI", name)
    }
    assert len(settings) >= 5
    assert all("${" in value for value in settings.values())


def test_the_tracking_server_gets_only_known_flags() -> None:
    script = (INFRA / "mlflow" / "start.sh").read_text()
    command = script[script.index("exec mlflow server") :].replace("\\\n", " ")
    flags = {word for word in shlex.split(command) if word.startswith("--")}
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "server", "--help"]
    known = subprocess.run(mlflow, capture_output=True, text=True, check=True).stdout
    assert flags
    assert all(flag in known for flag in flags)
