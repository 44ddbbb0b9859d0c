"""`unclip ui`: the run pages of a local store, served to this machine alone."""

import contextlib
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
from pipelines.tracking.records import TRAINING_VIEW
from pipelines.tracking.server import ARTIFACTS, DATABASE, local_root
from pipelines.tracking.settings import TrackingSettings

HOST = "127.0.0.1"
START_TIMEOUT_S, STOP_TIMEOUT_S, POLL_S = 60.0, 10.0, 0.2
SQLITE = "sqlite:///"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # pages need no job workers
}


def serve_ui(
    store_root: str,
    settings: TrackingSettings,
    *,
    port: int = 5000,
    say: Callable[[str], None] = print,
) -> None:
    """Serve until Ctrl-C. Raises `PipelineError` where there is nothing to serve, or no port."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with running_ui(store_root, settings, port=port) as server:
        page = f"http://{HOST}:{port}/#/experiments{TRAINING_VIEW}"
        say(f"The runs of {store_root} are at {page} (Ctrl-C ends).")
        with contextlib.suppress(KeyboardInterrupt):
            code = server.wait()
            raise PipelineError(f"The MLflow server on port {port} ended by itself: code {code}.")


@contextlib.contextmanager
def running_ui(
    store_root: str, settings: TrackingSettings, *, port: int
) -> "Iterator[subprocess.Popen[bytes]]":
    """The server as a child process that answers, ended with all its own children."""
    store = Store(store_root)
    command = _command(store, _database(store, settings), port)
    _check_free(port)
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(  # a session of its own: Ctrl-C reaches us, and we end it
            command,
            env={**ENVIRONMENT, **os.environ},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_until_up(server, port, log)
            yield server
        finally:
            _stop(server)


def _command(store: Store, database: Path, port: int) -> list[str]:
    root = local_root(store)
    artifacts = f"{root.as_uri() if root else store.root.rstrip('/')}/{ARTIFACTS}"
    where = ["--host", HOST, "--port", str(port), "--workers", "1"]
    kept = ["--backend-store-uri", f"{SQLITE}{database}", "--artifacts-destination", artifacts]
    return [sys.executable, "-m", "mlflow", "server", *where, *kept]


def _database(store: Store, settings: TrackingSettings) -> Path:
    """The store's SQLite file, or the one that the settings name."""
    root, uri = local_root(store), settings.uri
    if uri is not None and not uri.startswith(SQLITE):
        raise PipelineError(f"The runs are on the tracking server {uri}: open that address.")
    if uri is None and root is None:
        raise PipelineError(
            f"The store {store.root} is not on this machine and holds no runs. Open the tracking "
            "server that was given with run.tracking.uri."
        )
    database = Path(uri.removeprefix(SQLITE)) if uri else (root or Path()) / DATABASE
    if not database.is_file():
        raise PipelineError(
            f"There are no runs yet: {database} is not there. Run the pipeline with this store, "
            "or name the store that it ran with."
        )
    return database.absolute()


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OverflowError as error:
            raise PipelineError(f"--port {port} is no port; give 1 to 65535.") from error
        except OSError as error:
            raise PipelineError(
                f"Port {port} of {HOST} cannot be used ({error.strerror}): something listens there "
                f"already. Choose another, such as --port {port % 60000 + 1}."
            ) from error


def _wait_until_up(server: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to ourselves
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError):  # not up yet
            direct.open(f"http://{HOST}:{port}/health", timeout=5).close()
            return
        time.sleep(POLL_S)
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines()[-3:]
    raise PipelineError(f"The MLflow server did not start on port {port}: {' | '.join(said)}")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server and what it started."""
    for ask, patience_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, ask)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience_s)
            return
