"""Digests of files outside the pipeline, remembered while the files stay the same.

Hashing a large file takes long, so its sha256 is kept in the user's cache folder, under what the
file system says of the file: size, times, etag. A file system that says nothing but the size is
not trusted, and its files are hashed each time.
"""

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import fsspec

from pipelines.core.store import Folder

log = logging.getLogger(__name__)

# What a file system may say of a file without it changing along with the content.
UNCHANGING = {"name", "type", "size", "url", "mimetype", "partial"}


def file_digest(url: str) -> str:
    """sha256 of a file on any fsspec file system, in hexadecimal digits.

    Raises whatever the file system raises where the file cannot be read.
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
    with contextlib.suppress(OSError):  # without a cache folder, hashing just takes its time again
        remembered.parent.mkdir(parents=True, exist_ok=True)
        Folder(str(remembered.parent)).write_bytes(remembered.name, digest.encode())
    return digest


def _hash(fs: Any, path: str) -> str:
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "unclip" / "sha256"
