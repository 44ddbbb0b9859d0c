"""Digests of files outside the pipeline, cached while the files stay the same.

Hashing a large file takes long, so its sha256 is kept in the user's cache folder. The cache key is
the file's metadata: size, times, etag. Where a file system reports only the size, a change could go
unnoticed, so its files are hashed each time.
"""

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import fsspec

from pipelines.core.folder import Folder

log = logging.getLogger(__name__)

# Metadata that may stay the same when the content changes.
UNCHANGING = {"name", "type", "size", "url", "mimetype", "partial"}


def file_digest(url: str) -> str:
    """sha256 of a file on any fsspec file system, in hexadecimal digits.

    Raises what the file system raises if the file cannot be read.
    """
    fs, path = fsspec.core.url_to_fs(url)
    info = fs.info(path)
    if not info.keys() - UNCHANGING:
        return _hash(fs, path)
    remembered = _cache_folder() / hashlib.sha256(repr(sorted(info.items())).encode()).hexdigest()
    if remembered.is_file():
        return remembered.read_text()
    log.info("hashing %s, which is new or has changed", url)
    digest = _hash(fs, path)
    with contextlib.suppress(OSError):  # without a cache folder, the next call hashes again
        remembered.parent.mkdir(parents=True, exist_ok=True)
        Folder(str(remembered.parent)).write_bytes(remembered.name, digest.encode())
    return digest


def _hash(fs: Any, path: str) -> str:
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "unclip" / "sha256"
