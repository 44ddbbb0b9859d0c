"""The files of a checkpoint, and the manifest that makes them one."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

MANIFEST = "checkpoint.json"


class CheckpointUnreadableError(RuntimeError):
    """A checkpoint is incomplete or damaged."""


class CheckpointFiles(Protocol):
    """A folder of files, such as "step-00000500/0.bin"; every worker sees the same files."""

    def sizes(self) -> Mapping[str, int]:
        """The files in the folder and their sizes in bytes."""
        ...

    def write(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write to; the file appears under its name, whole, when this exits."""
        ...

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes of a file from `start` up to `end`."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Delete files."""
        ...


@dataclass(frozen=True)
class LocalFiles:
    """A folder on a disk that all workers share."""

    folder: Path

    def sizes(self) -> Mapping[str, int]:
        found = self.folder.rglob("*")
        return {str(p.relative_to(self.folder)): p.stat().st_size for p in found if p.is_file()}

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        final = self.folder / name
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(final.name + ".partial")
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(final)

    def read(self, name: str, start: int, end: int) -> bytes:
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.folder / name).unlink()
        for folder in self.folder.glob("*/"):
            if not any(folder.iterdir()):
                folder.rmdir()


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds; `folder` is the checkpoint's, within the files."""

    files: CheckpointFiles
    folder: str
    content: Mapping[str, Any]

    @property
    def values(self) -> Mapping[str, Any]:
        """What was saved beside the tensors."""
        values: Mapping[str, Any] = self.content["values"]
        return values

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raise `CheckpointUnreadableError` if a file is missing or has another size."""
        for name, size in self.content["files"].items():
            found = sizes.get(f"{self.folder}/{name}")
            if found != size:
                raise CheckpointUnreadableError(
                    f"its file {name} is missing"
                    if found is None
                    else f"its file {name} has {found} of {size} bytes"
                )


def read_manifest(files: CheckpointFiles, folder: str, sizes: Mapping[str, int]) -> Manifest:
    """The manifest of a checkpoint. Raises `CheckpointUnreadableError` unless it is complete."""
    name = f"{folder}/{MANIFEST}"
    if name not in sizes:
        raise CheckpointUnreadableError("it was interrupted while it was written")
    try:
        manifest = Manifest(files, folder, json.loads(files.read(name, 0, sizes[name])))
        manifest.check(sizes)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointUnreadableError(f"its {MANIFEST} is damaged: {error!r}") from error
    return manifest
