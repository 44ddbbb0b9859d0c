"""Submitting to three real Ray nodes: a head, one for data, one with pretend GPUs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import PipelineError
from pipelines.submit import versions
from pipelines.submit.jobs import logs, status, stop, submit
from pipelines.submit.versions import check_packages, connect
from tests.pipelines.cluster_job import NAMES

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef" * 4
TOY = ("python", "-m", "tests.pipelines.cluster_job")


pytestmark = pytest.mark.ray


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


@dataclass(frozen=True)
class Job:
    """One run of the toy pipeline, and what it left behind."""

    address: str
    folder: Path

    def submit(self, *, pause_s: float = 0.0, follow: bool = True, **config: Any) -> str:
        path = self.folder / "toy.yaml"
        store = str(self.folder / "store")
        path.write_text(json.dumps({"store": store, **config}))
        env = {"TOY_TRACE": str(self.trace), "TOY_PAUSE_S": str(pause_s), "PYTHONPATH": str(ROOT)}
        return submit(
            path,
            [],
            address=self.address,
            store=store,
            follow=follow,
            write=self.hear,
            env=env,
            entrypoint=TOY,
        )

    def hear(self, text: str) -> None:
        self.output.append(text)
        print(text, end="")  # pytest shows it where a test fails

    @property
    def trace(self) -> Path:
        return self.folder / "trace"

    @property
    def output(self) -> list[str]:
        return _OUTPUT.setdefault(str(self.folder), [])

    def places(self, stage: str) -> Mapping[str, list[str]]:
        """Shard → the node and the process of each time that it was made."""
        return {
            p.name.removeprefix(f"{stage}-"): p.read_text().splitlines()
            for p in self.trace.glob(f"{stage}-*")
        }

    def drivers(self) -> list[tuple[int, str]]:
        path = self.trace / "drivers"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), line.split()[1]) for line in lines]

    def done(self) -> set[str]:
        return {p.stem for p in self.folder.glob("store/gather/*/*.parquet")}


_OUTPUT: dict[str, list[str]] = {}


def wait_until(condition: Any, *, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Not gone, and no zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of three nodes, started and ended by the script that the docs name."""
    state = tmp_path_factory.mktemp("cluster") / "state.json"
    script = [sys.executable, str(ROOT / "infra" / "local_cluster.py")]
    env = {**os.environ, "RAY_AUTH_TOKEN": TOKEN}
    env.pop("RAY_ADDRESS", None)
    made = subprocess.run(
        [*script, "up", "--state", str(state)], env=env, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    noted = json.loads(state.read_text())
    try:
        yield made.stdout.strip()
    finally:
        subprocess.run([*script, "down", "--state", str(state)], env=env, check=True)
    assert len(noted["pids"]) == 3
    assert not any(is_running(pid) for pid in noted["pids"])
    assert not Path(noted["logs"]).exists()


@pytest.fixture
def job(cluster: str, tmp_path: Path, token: None) -> Job:
    return Job(cluster, tmp_path)


def test_stages_land_where_their_resources_say_and_run_the_code_that_was_sent(job: Job) -> None:
    name = job.submit()
    for stage, node in (("gather", "data"), ("learn", "gpu")):
        made = job.places(stage)
        assert set(made) == set(NAMES)
        notes = [line.split() for lines in made.values() for line in lines]
        assert {where for where, _, _ in notes} == {node}
        assert all("working_dir_files" in code for _, _, code in notes)
    [(_, code)] = job.drivers()
    assert "working_dir_files" in code
    assert "all stages are done" in "".join(job.output)
    state = status(name, address=job.address)
    assert (state.job_id, state.status, state.exit_code) == (name, "SUCCEEDED", 0)
    printed: list[str] = []
    logs(name, address=job.address, write=printed.append)
    assert "all stages are done" in "".join(printed)


@pytest.mark.slow
def test_a_killed_driver_is_submitted_again_and_goes_on_from_its_shards(job: Job) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job.submit, pause_s=1.5)
        wait_until(lambda: job.done() or running.done())
        os.kill(job.drivers()[0][0], 9)
        done = job.done()
        name = running.result(timeout=120)
    assert name.endswith("-2")
    assert "killed by signal 9. Submitting it again as" in "".join(job.output)
    assert 0 < len(done) < len(NAMES)
    assert all(len(job.places("gather")[shard]) == 1 for shard in done)
    assert set(job.places("learn")) == set(NAMES)
    assert status(name.removesuffix("-2"), address=job.address).job_id == name


@pytest.mark.slow
def test_a_stopped_job_leaves_no_worker_and_a_new_one_goes_on_from_its_shards(job: Job) -> None:
    name = job.submit(pause_s=1.5, follow=False)
    wait_until(job.done)
    assert stop(name, address=job.address).status == "STOPPED"
    done = job.done()
    made = [line for lines in job.places("gather").values() for line in lines]
    workers = [int(line.split()[1]) for line in made]
    wait_until(lambda: not any(is_running(pid) for pid in workers))
    assert not is_running(job.drivers()[0][0])
    job.submit()
    assert all(len(job.places("gather")[shard]) == 1 for shard in done)
    assert set(job.places("learn")) == set(NAMES)


def test_a_driver_that_fails_by_itself_is_not_submitted_again(job: Job) -> None:
    with pytest.raises(PipelineError, match=r"FAILED, exit code 2.* unclip logs "):
        job.submit(store="/proc/no/such/place")
    assert len(job.drivers()) == 1
    assert "cannot be written" in "".join(job.output)


@pytest.mark.slow
def test_a_driver_that_lost_its_workers_is_submitted_again(job: Job) -> None:
    name = job.submit(lose_worker=True)
    assert name.endswith("-2")
    assert "it lost workers or its connection to the cluster. Submitting it" in "".join(job.output)
    assert len(job.drivers()) == 2
    assert set(job.places("learn")) == set(NAMES)


def test_the_cluster_asks_for_its_token(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    with pytest.raises(PipelineError, match=r"refuses the token .* `ray get-auth-token`"):
        connect(cluster)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(PipelineError, match="asks for a token, and none is set"):
        connect(cluster)


def test_an_unknown_job_and_another_unclip_on_the_cluster_are_named(
    cluster: str, token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ask in (status, stop, logs):
        with pytest.raises(PipelineError, match=f"There is no job nobody at {cluster}"):
            ask("nobody", address=cluster)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # which Ray's client would prefer
    client = connect(cluster)
    check_packages(client, cluster)
    ours = versions.version
    monkeypatch.setattr(
        f"{versions.__name__}.version", lambda p: "9.9" if p == "unclip" else ours(p)
    )
    with pytest.raises(PipelineError, match=r"has unclip .* and this checkout is 9\.9"):
        check_packages(client, cluster)
