"""Submitting: what a client is told before anything starts, and three real Ray nodes."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines import submit_client
from pipelines.core.errors import PipelineError
from pipelines.submit import check_store, logs, status, stop, submit
from pipelines.submit_client import auth_headers, check_packages, cluster_versions, connect
from pipelines.submit_package import packed
from pipelines.submit_watch import JobState, driver_died
from tests.pipelines.cluster_job import NAMES

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef" * 4
TOY = ("python", "-m", "tests.pipelines.cluster_job")
PYTHON = ".".join(map(str, sys.version_info[:3]))
VERSIONS = {"rayVersion": ray.__version__, "pythonVersion": PYTHON}


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


@pytest.fixture
def dashboard() -> Iterator[Any]:
    """Starts a server that answers every GET with a given status and body."""
    servers: list[ThreadingHTTPServer] = []

    def answering(body: object, status: int = 200) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode() if isinstance(body, str) else b"")

            def log_message(self, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield answering
    for server in servers:
        server.shutdown()
        server.server_close()


def metadata(**changed: str) -> str:
    return json.dumps({"result": True, "data": {**VERSIONS, **changed}})


@pytest.mark.parametrize("address", ["ray://head:10001", "auto://", "http://"])
def test_an_address_that_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(PipelineError, match="is not the address of a Ray dashboard"):
        connect(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://no-such-host.invalid:8265"])
def test_a_cluster_that_does_not_answer_is_named(address: str, token: None) -> None:
    with pytest.raises(PipelineError, match=f"No cluster can be reached at .*{address}: "):
        connect(address)


def test_another_server_at_the_address_is_noticed(dashboard: Any, token: None) -> None:
    with pytest.raises(PipelineError, match="answers, but not as a Ray dashboard"):
        connect(dashboard("<html>hello</html>"))
    with pytest.raises(PipelineError, match="HTTP status 502"):
        connect(dashboard("", status=502))


def test_another_ray_or_python_is_told_with_both_versions(dashboard: Any, token: None) -> None:
    with pytest.raises(PipelineError, match=rf"runs Ray 2\.9\.0, and this .* {ray.__version__};"):
        connect(dashboard(metadata(rayVersion="2.9.0")))
    with pytest.raises(PipelineError, match=rf"runs Python 3\.9\.1, and this .* {PYTHON};"):
        connect(dashboard(metadata(pythonVersion="3.9.1")))


def test_only_the_first_two_numbers_of_python_must_be_equal(dashboard: Any, token: None) -> None:
    url = dashboard(metadata(pythonVersion=f"{sys.version_info[0]}.{sys.version_info[1]}.99"))
    submit_client.check_versions(url, cluster_versions(url))


def test_the_token_is_looked_for_where_ray_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert auth_headers() == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-home\n")
    assert auth_headers() == {"Authorization": "Bearer of-home"}
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    with pytest.raises(PipelineError, match=r"RAY_AUTH_TOKEN_PATH=.*other cannot be read"):
        auth_headers()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-environment")
    assert auth_headers() == {"Authorization": "Bearer of-environment"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert auth_headers() == {}


def test_a_store_that_would_vanish_with_the_job_is_refused() -> None:
    with pytest.raises(PipelineError, match="store runs is a folder relative"):
        check_store("runs")
    check_store("s3://bucket/runs")
    check_store("/shared/runs")


def test_no_attempt_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="--attempts 0 would start nothing"):
        submit(tmp_path / "c.yaml", [], address="127.0.0.1:1", store="s3://b", attempts=0)


def test_the_code_and_the_config_travel_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("a: 1\n")
    (tmp_path / "secret.txt").write_text("mine")
    with packed(config) as folder:
        assert {p.name for p in folder.iterdir()} == {
            "pipelines",
            "unclip",
            "pyproject.toml",
            "job.yaml",
        }
        assert (folder / "job.yaml").read_text() == "a: 1\n"
        assert (folder / "pipelines" / "submit_client.py").read_bytes() == Path(
            str(submit_client.__file__)
        ).read_bytes()
        assert not list(folder.rglob("__pycache__"))
    assert not folder.exists()
    with (
        pytest.raises(PipelineError, match=r"There is no config .*gone\.yaml"),
        packed(tmp_path / "gone.yaml"),
    ):
        pass


@pytest.mark.parametrize(
    ("exit_code", "error_type", "again"),
    [
        (2, "JOB_ENTRYPOINT_COMMAND_ERROR", False),
        (1, "JOB_ENTRYPOINT_COMMAND_ERROR", False),
        (130, "JOB_ENTRYPOINT_COMMAND_ERROR", False),
        (-9, "JOB_ENTRYPOINT_COMMAND_ERROR", True),
        (137, "JOB_ENTRYPOINT_COMMAND_ERROR", True),
        (None, "JOB_SUPERVISOR_ACTOR_DIED", True),
        (None, "RUNTIME_ENV_SETUP_FAILURE", False),
    ],
)
def test_only_a_driver_that_was_killed_is_worth_another_attempt(
    exit_code: int | None, error_type: str, again: bool
) -> None:
    assert (driver_died(JobState("j", "FAILED", exit_code, error_type)) is not None) == again


# Three real nodes.


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
            write=self.output.append,
            env=env,
            entrypoint=TOY,
        )

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
        return {p.stem for p in self.folder.glob("store/gather/*/.done/*")}


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


@pytest.mark.ray
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


@pytest.mark.ray
def test_a_killed_driver_is_submitted_again_and_goes_on_from_its_shards(job: Job) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job.submit, pause_s=1.5)
        wait_until(lambda: job.done() or running.done())
        os.kill(job.drivers()[0][0], 9)
        done = job.done()
        name = running.result(timeout=120)
    assert name.endswith("-2")
    assert "killed by signal 9. Submitting again as" in "".join(job.output)
    assert 0 < len(done) < len(NAMES)
    assert all(len(job.places("gather")[shard]) == 1 for shard in done)
    assert set(job.places("learn")) == set(NAMES)
    assert status(name.removesuffix("-2"), address=job.address).job_id == name


@pytest.mark.ray
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


@pytest.mark.ray
def test_a_driver_that_fails_by_itself_is_not_submitted_again(job: Job) -> None:
    with pytest.raises(PipelineError, match=r"FAILED, exit code 2.* unclip logs "):
        job.submit(store="/proc/no/such/place")
    assert len(job.drivers()) == 1
    assert "cannot be written" in "".join(job.output)


@pytest.mark.ray
def test_the_cluster_asks_for_its_token(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    with pytest.raises(PipelineError, match=r"refuses the token .* `ray get-auth-token`"):
        connect(cluster)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(PipelineError, match="asks for a token, and there is none"):
        connect(cluster)


@pytest.mark.ray
def test_an_unknown_job_and_another_unclip_on_the_cluster_are_named(
    cluster: str, token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ask in (status, stop, logs):
        with pytest.raises(PipelineError, match=f"There is no job nobody at {cluster}"):
            ask("nobody", address=cluster)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # which Ray's client would prefer
    client = connect(cluster)
    check_packages(client, cluster)
    ours = submit_client.version
    monkeypatch.setattr(
        f"{submit_client.__name__}.version", lambda p: "9.9" if p == "unclip" else ours(p)
    )
    with pytest.raises(PipelineError, match=r"has unclip .* and this checkout is 9\.9"):
        check_packages(client, cluster)
