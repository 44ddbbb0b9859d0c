"""A small file system `limited://` on a local disk, which can also turn read-only."""

import errno
import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

MOST_BYTES = 8 * 2**20  # on the disk that a path below ".../disk" belongs to
READ_ONLY = ".read-only"  # a file in its root


class LimitedFileSystem(LocalFileSystem):
    """Refuses to write as a full or a read-only disk does."""

    protocol = "limited"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("limited://"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        _refuse(path, len(value))
        super().pipe_file(path, value, mode, **options)

    def put_file(self, lpath: str, rpath: str, *rest: Any, **options: Any) -> None:
        _refuse(rpath, Path(lpath).stat().st_size)
        super().put_file(lpath, rpath, *rest, **options)

    def rm_file(self, path: str) -> None:
        _refuse(path, 0)
        super().rm_file(path)


def _refuse(path: str, more: int) -> None:
    disk = next(p for p in Path(path).parents if p.name == "disk")
    if (disk / READ_ONLY).exists():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    used = sum(p.stat().st_size for p in disk.rglob("*") if p.is_file())
    if used + more > MOST_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


fsspec.register_implementation("limited", LimitedFileSystem, clobber=True)
