"""Leases: one driver at a time makes a stage, though several may share a store.

A lease is the file `.leases/<stage>/<key>.json` of the store. Its holder renews it every
`RENEW_EVERY_S`; a lease that was not renewed for `EXPIRY_S`, or whose holder is a dead process of
this machine, may be taken over. A holder that was suspended for that long stops if it finds another
driver's lease in place of its own.

On a local disk acquiring is atomic: a lock on `.leases/.lock` covers it (on NFS, if the server
supports locks). On an object store, the file is created only if it does not exist, and read back
after `SETTLE_S`. Without support for that (S3 and GCS have it), two drivers that start within a
second of each other may both take a lease, and the slower one stops at its next renewal. The clocks
of all drivers must agree to within half of `EXPIRY_S`.
"""

import contextlib
import fcntl
import getpass
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.core.errors import AbortedError, WorkLostError, first_line
from pipelines.core.filesystem import StoreError, filesystem, is_local, writing
from pipelines.core.folder import Folder
from pipelines.core.process import is_running, machine_id, start_time

log = logging.getLogger(__name__)

FOLDER = ".leases"
RENEW_EVERY_S = 10.0
EXPIRY_S = 60.0
SETTLE_S = 1.0
_IN_PROCESS = threading.Lock()  # for stores that have no file lock, such as those in memory


class LeaseLostError(AbortedError, WorkLostError):
    """Another driver has taken over a stage that this one was making."""


@dataclass(frozen=True)
class Holder:
    """The driver that holds a lease."""

    host: str
    user: str
    machine: str  # `machine_id`: a PID is unique within it
    pid: int
    started: str  # of the process, see `start_time`
    since: str  # ISO 8601, UTC
    renewed_at: float  # Unix time
    token: str  # unique to one acquisition

    def __str__(self) -> str:
        since = self.since[:19].replace("T", " ")
        return f"{self.user}@{self.host} (process {self.pid}) since {since} UTC"

    def is_gone(self) -> bool:
        """Whether the lease may be taken over."""
        if self.machine == machine_id() and not is_running(self.pid, self.started):
            return True
        return time.time() - self.renewed_at > EXPIRY_S


def holder_of(store_root: str, label: str) -> Holder | None:
    """The live driver that is making the stage of this label ("stage/key"), if any."""
    holder = _read(_folder(store_root), label)
    return None if holder is None or holder.is_gone() else holder


class Leases:
    """The leases of this driver, renewed by a thread. Use as a context manager."""

    def __init__(self, store_root: str) -> None:
        self.folder = _folder(store_root)
        self.held: dict[str, Holder] = {}
        self.lost: dict[str, str] = {}  # label → why
        self._lock = threading.Lock()  # of `held` and `lost`
        self._closed = threading.Event()

    def __enter__(self) -> "Leases":
        threading.Thread(target=self._keep_renewing, name="leases", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for label in list(self.held):
            self.release(label)

    def acquire(self, label: str) -> Holder | None:
        """Take the lease and return None; if another live driver holds it, return that holder."""
        own = _own_holder()
        with _exclusively(self.folder):
            present = _read(self.folder, label)
            if present is not None and not present.is_gone():
                return present
            if present is not None:
                log.warning("taking over the lease of %s from %s", label, present)
            _create(self.folder, label, own, replacing=present is not None)
        if not is_local(filesystem(self.folder.url)):
            time.sleep(SETTLE_S)
            present = _read(self.folder, label)
            if present is not None and present.token != own.token:
                return present
        with self._lock:
            self.held[label] = own
        log.info("holds the lease of %s", label)
        return None

    def release(self, label: str) -> None:
        """Give the lease up, unless it was lost. Never raises."""
        with self._lock:
            own = self.held.pop(label, None)
        try:
            present = _read(self.folder, label)
            if own is not None and present is not None and present.token == own.token:
                self.folder.remove_file(_file(label))
        except StoreError as error:  # the lease expires by itself
            log.info("the lease of %s stays until it expires: %s", label, first_line(error))

    def check(self) -> None:
        """Raise `LeaseLostError` if a lease was lost."""
        for label, reason in self.lost.items():
            raise LeaseLostError(
                f"The run stops, because it lost the lease of {label}: {reason}. Finished work is "
                "kept: run the same command again to resume."
            )

    def verify(self, label: str) -> None:
        """Read the lease in the store; raise `LeaseLostError` unless this driver still holds it."""
        self._renew(label)
        self.check()
        if label not in self.held:
            raise LeaseLostError(f"{label} is not committed: this run has released its lease.")

    def _keep_renewing(self) -> None:
        while not self._closed.wait(RENEW_EVERY_S):
            for label in list(self.held):
                self._renew(label)

    def _renew(self, label: str) -> None:
        with self._lock:
            own = self.held.get(label)
            if own is None:
                return
            try:
                with _exclusively(self.folder):
                    present = _read(self.folder, label)
                    if present is not None and present.token != own.token:
                        self._lose(label, f"it is held by {present}")
                        return
                    if present is None and own.is_gone():
                        self._lose(label, f"it was not renewed for {EXPIRY_S:.0f} s")
                        return
                    own = replace(own, renewed_at=time.time())
                    self.folder.write_json(_file(label), asdict(own))
                self.held[label] = own
            except StoreError as error:
                log.info("the lease of %s cannot be renewed: %s", label, first_line(error))
                if time.time() - own.renewed_at > EXPIRY_S:
                    self._lose(label, first_line(error))

    def _lose(self, label: str, reason: str) -> None:
        log.info("lost the lease of %s: %s", label, reason)
        del self.held[label]
        self.lost[label] = reason


def _folder(store_root: str) -> Folder:
    return Folder(f"{store_root.rstrip('/')}/{FOLDER}")


def _file(label: str) -> str:
    return f"{label}.json"


def _own_holder() -> Holder:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a UID without a name, as in some containers
        user = str(os.getuid())
    return Holder(
        host=platform.node(),
        user=user,
        machine=machine_id(),
        pid=os.getpid(),
        started=start_time(os.getpid()),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        renewed_at=time.time(),
        token=uuid.uuid4().hex,
    )


def _read(folder: Folder, label: str) -> Holder | None:
    """The lease's content; None if it is missing, or unreadable, as after a crash."""
    try:
        return Holder(**folder.read_json(_file(label)))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        log.warning("the lease of %s is unreadable and is ignored: %s", label, error)
        return None


def _create(folder: Folder, label: str, own: Holder, *, replacing: bool) -> None:
    """Write the lease; on an object store only if no other driver does so at the same time."""
    fs = filesystem(folder.url)
    if is_local(fs):
        folder.write_json(_file(label), asdict(own))
        return
    path = folder._path(_file(label))
    with writing(folder.file(_file(label))):
        if replacing:
            fs.rm_file(path)
        with contextlib.suppress(FileExistsError):  # the caller reads the lease back
            fs.pipe_file(path, json.dumps(asdict(own)).encode(), mode="create")


@contextlib.contextmanager
def _exclusively(folder: Folder) -> Iterator[None]:
    """Keep other threads out and, if the store is on a local file system, other processes."""
    fs: Any = filesystem(folder.url)
    with _IN_PROCESS:
        if not is_local(fs):
            yield
            return
        path = Path(folder._path(".lock"))
        with writing(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("a")
        with lock:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
