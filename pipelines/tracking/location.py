"""Where runs are recorded: on a tracking server, or in an SQLite file in the store's root."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipelines.core.errors import PipelineError
from pipelines.core.store import Store
from pipelines.tracking.settings import TrackingSettings

log = logging.getLogger(__name__)

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"  # in the store's root
SQLITE = "sqlite:///"


def tracking_uri(settings: TrackingSettings, store: Store) -> str:
    """The URI in the settings, or that of an SQLite file in a local store's root.

    Raises `PipelineError` if there is no URI and the store is not on this machine.
    """
    if settings.uri is not None:
        return settings.uri
    root = local_root(store)
    if root is None:
        raise PipelineError(
            f"The store {store.root} is not on this machine and cannot hold an SQLite database, "
            "and no tracking server is configured. Give one with --set run.tracking.uri=http://…, "
            "or a local file with --set run.tracking.uri=sqlite:////tmp/mlflow.db."
        )
    root.mkdir(parents=True, exist_ok=True)
    return f"{SQLITE}{root / DATABASE}"


def local_root(store: Store) -> Path | None:
    """The store's root as a path, or None if the store is not on this machine."""
    fs, path = url_to_fs(store.root)
    return Path(path) if isinstance(fs, LocalFileSystem) else None


def artifact_root(store: Store) -> str:
    """The URL below which the store keeps the files of its runs."""
    root = local_root(store)
    return f"{root.as_uri() if root else store.root.rstrip('/')}/{ARTIFACTS}"


@contextlib.contextmanager
def migration_lock(uri: str) -> Iterator[None]:
    """Let one process at a time open an SQLite database; other URIs need no lock.

    MLflow creates and migrates the tables when it opens a database, and fails if another process
    does so at the same time. The lock is on the database's folder: it leaves no file behind, and
    the system releases it when its holder dies.
    """
    if not uri.startswith(SQLITE):
        yield
        return
    folder = Path(uri.removeprefix(SQLITE)).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        log.debug("waiting for the lock on %s", folder)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
