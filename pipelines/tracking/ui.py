"""`unclip ui`: an MLflow server for a local store, open to this machine only."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pipelines.core.errors import PipelineError
from pipelines.core.store import Store
from pipelines.tracking.descriptions import TRAINING_VIEW
from pipelines.tracking.location import DATABASE, SQLITE, artifact_root, local_root
from pipelines.tracking.settings import TrackingSettings

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_TIMEOUT_S, STOP_TIMEOUT_S, POLL_S = 60.0, 10.0, 0.2
ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # pages need no job workers


def serve_ui(
    store_root: str,
    settings: TrackingSettings,
    *,
    port: int = 5000,
    say: Callable[[str], None] = print,
) -> None:
    """Serve until Ctrl-C. Raises `PipelineError` if there are no runs or the port is in use."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with running_ui(store_root, settings, port=port) as server:
        page = f"http://{HOST}:{port}/#/experiments{TRAINING_VIEW}"
        say(f"The runs of {store_root} are at {page} (press Ctrl-C to stop).")
        with contextlib.suppress(KeyboardInterrupt):
            code = server.wait()
            raise PipelineError(f"The MLflow server on port {port} stopped with exit code {code}.")


@contextlib.contextmanager
def running_ui(
    store_root: str, settings: TrackingSettings, *, port: int
) -> "Iterator[subprocess.Popen[bytes]]":
    """A running server, which is stopped with all its child processes at the end."""
    store = Store(store_root)
    command = _command(store, _database(store, settings), port)
    _check_free(port)
    with tempfile.TemporaryFile() as output:
        log.info("starting %s", " ".join(command))
        server = subprocess.Popen(  # a session of its own, so that Ctrl-C reaches only us
            command,
            env={**ENVIRONMENT, **os.environ},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            _wait_until_up(server, port, output)
            yield server
        finally:
            _stop(server)


def _command(store: Store, database: Path, port: int) -> list[str]:
    address = ["--host", HOST, "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"{SQLITE}{database}"]
    stores += ["--artifacts-destination", artifact_root(store)]
    return [sys.executable, "-m", "mlflow", "server", *address, *stores]


def _database(store: Store, settings: TrackingSettings) -> Path:
    """The SQLite file of the settings, or else of the store. Raises `PipelineError`."""
    root, uri = local_root(store), settings.uri
    if uri is not None and not uri.startswith(SQLITE):
        raise PipelineError(f"The runs are on the tracking server {uri}: open that address.")
    if uri is None and root is None:
        raise PipelineError(
            f"The store {store.root} is not on this machine and holds no runs. Open the address of "
            "the tracking server, or give it with --set run.tracking.uri=…"
        )
    database = Path(uri.removeprefix(SQLITE)) if uri else (root or Path()) / DATABASE
    if not database.is_file():
        raise PipelineError(
            f"There are no runs yet: {database} does not exist. Run the pipeline with this store, "
            "or give the store of an earlier run with --store."
        )
    return database.absolute()


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OverflowError as error:
            raise PipelineError(f"--port {port} is not a port; give 1 to 65535.") from error
        except OSError as error:
            raise PipelineError(
                f"Port {port} of {HOST} cannot be used: {error.strerror}. "
                f"Give another, such as --port {port % 60000 + 1}."
            ) from error


def _wait_until_up(server: "subprocess.Popen[bytes]", port: int, output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without a proxy
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError):  # not up yet
            direct.open(f"http://{HOST}:{port}/health", timeout=5).close()
            return
        time.sleep(POLL_S)
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()[-3:]
    raise PipelineError(f"The MLflow server did not start on port {port}: {' | '.join(lines)}")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """Stop the server and its child processes."""
    for signal_number, wait_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(wait_s)
            return
