"""Submitting: what is checked on this machine before a job starts."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines.core.errors import PipelineError
from pipelines.submit import client as submit_client
from pipelines.submit.client import auth_headers
from pipelines.submit.jobs import check_store, submit
from pipelines.submit.package import packed
from pipelines.submit.versions import check_versions, cluster_versions, connect
from pipelines.submit.watch import JobState, reason_to_repeat

TOKEN = "0123456789abcdef" * 4
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


def test_another_ray_or_python_is_refused_with_both_versions(dashboard: Any, token: None) -> None:
    with pytest.raises(PipelineError, match=rf"runs Ray 2\.9\.0, and this .* {ray.__version__};"):
        connect(dashboard(metadata(rayVersion="2.9.0")))
    with pytest.raises(PipelineError, match=rf"runs Python 3\.9\.1, and this .* {PYTHON};"):
        connect(dashboard(metadata(pythonVersion="3.9.1")))


def test_only_the_first_two_numbers_of_python_must_be_equal(dashboard: Any, token: None) -> None:
    url = dashboard(metadata(pythonVersion=f"{sys.version_info[0]}.{sys.version_info[1]}.99"))
    check_versions(url, cluster_versions(url))


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
    with pytest.raises(PipelineError, match="store runs is relative to the folder"):
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
        assert (folder / "pipelines" / "submit" / "client.py").read_bytes() == Path(
            str(submit_client.__file__)
        ).read_bytes()
        assert not list(folder.rglob("__pycache__"))
    assert not folder.exists()
    with (
        pytest.raises(PipelineError, match=r"gone\.yaml does not exist"),
        packed(tmp_path / "gone.yaml"),
    ):
        pass


def test_modules_that_the_config_names_travel_too(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "filter: {rules: {my_rules:NoMemes: {}}}\nsource: {urls: lists.web:Pages}\n"
        "prior: {sampler: installed:sampler}\n"
    )
    (tmp_path / "my_rules.py").write_text("RULES = 1")
    (tmp_path / "lists" / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "web.py", "__pycache__/web.pyc"):
        (tmp_path / "lists" / name).touch()
    (tmp_path / "unnamed.py").touch()
    with packed(config) as folder:
        names = {p.name for p in folder.iterdir()} - {"pipelines", "unclip", "pyproject.toml"}
        assert names == {"job.yaml", "my_rules.py", "lists"}
        assert {p.name for p in (folder / "lists").iterdir()} == {"__init__.py", "web.py"}


@pytest.mark.parametrize(
    ("exit_code", "error_type", "again"),
    [
        (2, "JOB_ENTRYPOINT_COMMAND_ERROR", False),
        (1, "JOB_ENTRYPOINT_COMMAND_ERROR", False),
        (130, "JOB_ENTRYPOINT_COMMAND_ERROR", False),
        (75, "JOB_ENTRYPOINT_COMMAND_ERROR", True),
        (-9, "JOB_ENTRYPOINT_COMMAND_ERROR", True),
        (137, "JOB_ENTRYPOINT_COMMAND_ERROR", True),
        (None, "JOB_SUPERVISOR_ACTOR_DIED", True),
        (None, "RUNTIME_ENV_SETUP_FAILURE", False),
    ],
)
def test_only_lost_drivers_and_lost_work_are_submitted_again(
    exit_code: int | None, error_type: str, again: bool
) -> None:
    assert (reason_to_repeat(JobState("j", "FAILED", exit_code, error_type)) is not None) == again
