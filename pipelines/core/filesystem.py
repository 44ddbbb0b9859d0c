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
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import fsspec.asyn

from pipelines.core.errors import PipelineError, first_line
from pipelines.core.process import is_running, machine_id

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
S3_PROTOCOLS = ("s3", "s3a")
MAX_PUT_BYTES = 5 << 30  # S3's limit for one request
STALE_AFTER_S = 24 * 3600.0  # age of a temporary file whose writer cannot be checked
AT_ONCE = 64  # requests to S3; botocore's default is 10 connections
# A request that fails is repeated after up to 1, 2, 4, 8, 16 and 32 s; s3fs adds rounds of its own
# for throttling and lost connections. The other modes of retries give up at once after some hundred
# failures in all: with many requests under way, after a second.
S3_CONFIG = {
    "retries": {"mode": "legacy", "total_max_attempts": 7},
    "connect_timeout": 15,
    "read_timeout": 30,
    "max_pool_connections": AT_ONCE,
}
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
    options = s3_options() if url.startswith(tuple(f"{p}://" for p in S3_PROTOCOLS)) else {}
    return fsspec.core.url_to_fs(url, use_listings_cache=False, **options)[0]


def s3_options() -> dict[str, Any]:
    """Options of s3fs. What fsspec's own configuration says goes first, setting by setting.

    One part at a time: a file system holds no more than one in memory, and reads a small file
    without asking for its size first.
    """
    own: dict[str, Any] = {}
    for protocol in S3_PROTOCOLS:
        own |= fsspec.config.conf.get(protocol, {})
    config = {**S3_CONFIG, **own.get("config_kwargs", {})}
    return {"max_concurrency": own.get("max_concurrency", 1), "config_kwargs": config}


def is_local(fs: Any) -> bool:
    """Whether the file system is this machine's own."""
    return "file" in _protocols(fs)


def is_object_store(fs: Any) -> bool:
    """Whether a file appears only once it is complete, and folders need not be made."""
    return bool(OBJECT_STORES & _protocols(fs))


def _protocols(fs: Any) -> set[str]:
    return set(fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def upload(fs: Any, local: Path, path: str) -> None:
    """Copy a local file to a path of the file system.

    To S3, files of up to 5 GiB go in one request, streamed from the disk: no part of the file is
    kept in memory, and an interrupted upload leaves nothing behind. s3fs itself would read whole
    parts, and hold each twice.
    """
    if not (_protocols(fs) & set(S3_PROTOCOLS) and local.stat().st_size <= MAX_PUT_BYTES):
        fs.put_file(str(local), path)
        return
    fsspec.asyn.sync(fs.loop, _put_object, fs, local, path)


async def _put_object(fs: Any, local: Path, path: str) -> None:
    """Botocore repeats a request that failed, from the start of the file."""
    bucket, key, _ = fs.split_path(path)
    await fs.set_session()
    put = (await fs.get_s3(bucket)).put_object
    with local.open("rb") as body:
        await put(**fs._get_s3_method_kwargs(put, Bucket=bucket, Key=key, Body=body))


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
        if is_stale(path, modified_time(info)):
            try:
                fs.rm_file(path)
                log.info("removed %s, which its dead writer left behind", path)
            except Exception as error:  # a failed clean-up must not stop a run
                log.debug("%s stays: %s", path, first_line(error))


def modified_time(info: Mapping[str, Any]) -> float | None:
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
