"""File systems under a store: their exceptions, and the temporary files of writers.

A file system may raise anything (`OSError`, errors of botocore, of aiohttp). Callers see one
`StoreError` that says which file, why, and what to do.
"""

import contextlib
import errno
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from os import getpid
from pathlib import PurePosixPath
from typing import Any

import fsspec

from pipelines.core.errors import PipelineError, first_line
from pipelines.core.process import is_running, machine_id

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
STALE_AFTER_S = 24 * 3600.0  # age of a temporary file whose writer cannot be checked
_WRITER = re.compile(rf"{re.escape(TEMPORARY)}(?P<machine>[0-9a-f]{{12}})-(?P<pid>\d+)-")
_HINTS = {
    errno.ENOSPC: "Free some space and run again: finished work is kept.",
    errno.EDQUOT: "Free some of the quota and run again: finished work is kept.",
    errno.EROFS: "The file system is mounted read-only: mount it for writing and run again.",
}
_HINT = (
    "Check that the store (--store or run.store) is writable and, for a bucket, the "
    "credentials in the environment."
)


class StoreError(PipelineError):
    """The store cannot be used, or does not hold what it should."""


class StoreWriteError(StoreError):
    """A file cannot be written; a run starts no further stage."""


class StoreFileMissingError(StoreError, FileNotFoundError):
    """A file that should be read is not in the store."""


def filesystem(url: str) -> Any:
    """The fsspec file system of a URL, without its cache of listings.

    Other processes write to a store too: a cached listing would hide their files.
    """
    return fsspec.core.url_to_fs(url, use_listings_cache=False)[0]


def is_local(fs: Any) -> bool:
    """Whether the file system is this machine's own."""
    return "file" in _protocols(fs)


def is_object_store(fs: Any) -> bool:
    """Whether a file appears only once it is complete, and folders need not be made."""
    return bool(OBJECT_STORES & _protocols(fs))


def _protocols(fs: Any) -> set[str]:
    return set(fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Wrap every error in `StoreError`; `where` names the file."""
    try:
        yield
    except PipelineError:
        raise
    except FileNotFoundError as error:
        raise StoreFileMissingError(f"{where} is not in the store.") from error
    except Exception as error:
        raise StoreError(f"{where} cannot be read: {_reason(error)}.") from error


@contextlib.contextmanager
def writing(where: str) -> Iterator[None]:
    """Wrap every error in `StoreWriteError`; `where` names the file."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        hint = _HINTS.get(error.errno or 0, _HINT) if isinstance(error, OSError) else _HINT
        raise StoreWriteError(f"{where} cannot be written: {_reason(error)}. {hint}") from error


def temporary_name() -> str:
    """A hidden file name that identifies the process that writes the file."""
    return f"{TEMPORARY}{machine_id()}-{getpid()}-{uuid.uuid4().hex[:12]}"


def is_stale(name: str, modified: float | None) -> bool:
    """Whether the file is a temporary one that no process will finish.

    A file from this machine is stale once its writer has ended; any other, after `STALE_AFTER_S`.
    modified: Unix time.
    """
    name = PurePosixPath(name).name
    if not name.startswith(TEMPORARY):
        return False
    writer = _WRITER.match(name)
    if writer and writer["machine"] == machine_id():
        return not is_running(int(writer["pid"]))
    return modified is not None and time.time() - modified > STALE_AFTER_S


def remove_stale(fs: Any, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Delete the stale files among these (path → fsspec description). Never raises.

    A file of a living process stays, and so does a young one that another machine writes.
    """
    for path, info in files.items():
        if is_stale(path, _modified_time(info)):
            try:
                fs.rm_file(path)
                log.info("removed %s, which its dead writer left behind", path)
            except Exception as error:  # a failed clean-up must not stop a run
                log.debug("%s stays: %s", path, first_line(error))


def _modified_time(info: Mapping[str, Any]) -> float | None:
    """When a file was last written, as Unix time, from its fsspec description."""
    for field in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(field)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
