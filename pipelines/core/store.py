"""The store of all results, below any fsspec URL.

`<root>/<stage>/<key>/` holds a stage's outputs and `manifest.json`, which is written last: its
presence is the commit. `contents.json` lists the files of the result. `<root>/<stage>/shards/`
holds the shards that several results may share, and `contents.json` lists those that belong to one.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pipelines.core.errors import PipelineError, first_line
from pipelines.core.filesystem import (
    StoreError,
    StoreFileMissingError,
    StoreWriteError,
    filesystem,
    remove_stale,
    temporary_name,
)
from pipelines.core.folder import MANIFEST, SHARDS, Folder, is_hidden

log = logging.getLogger(__name__)

CONTENTS = "contents.json"  # what the result consists of; written before the manifest
READERS = 16  # headers that are read at the same time
H = TypeVar("H", bound="Header")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What `manifest.json` says about one finished stage: what it is, and where it came from."""

    stage: str
    key: str
    version: int
    description: Mapping[str, Any]  # the canonical form that the key is the digest of
    dependencies: Mapping[str, str]  # field → "stage/key"
    provenance: Mapping[str, Any]  # commit, packages, host: recorded, not hashed
    links: Mapping[str, str]  # where people can look at it, such as its MLflow run
    created_at: str  # ISO 8601 with microseconds, UTC; the order of results
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Manifest(Header):
    """The record of one finished stage, with what it made, which grows with its shards."""

    metadata: Mapping[str, Any]  # the artifact's fields
    outputs: Mapping[str, int]  # file → bytes
    shards: Mapping[str, int] = field(default_factory=dict)  # shared file → bytes

    @property
    def total_bytes(self) -> int:
        """The size of all files of the result, shared ones too."""
        return sum(self.outputs.values()) + sum(self.shards.values())


class Store:
    """Folders, manifests and commits of all stages below one root."""

    def __init__(self, root: str) -> None:
        self.root = root if "://" in root else str(Path(root).absolute())
        self._damaged: dict[str, str] = {}  # "stage/key" → why its manifest cannot be read

    def folder(self, stage: str, key: str) -> Folder:
        """Where the stage of this key writes."""
        return Folder(f"{self.root.rstrip('/')}/{stage}/{key}")

    def check_writable(self) -> None:
        """Write, read and delete a small file; raises `StoreWriteError` if that fails."""
        probe, name = Folder(self.root), temporary_name()
        try:
            probe.write_bytes(name, b"unclip")
            read = filesystem(self.root).cat_file(probe._path(name))
            probe.remove_file(name)
        except Exception as error:
            reason = first_line(error.__cause__ or error)
            raise StoreWriteError(
                f"The store {self.root} cannot be written: {reason}. "
                "Give a folder or bucket that you may write to with --store or run.store."
            ) from error
        if read != b"unclip":
            raise StoreError(f"The store {self.root} does not return the bytes written to it.")

    def check_root(self) -> None:
        """Raise `StoreError` if the root is a file; a missing folder is created later."""
        with self._readable():
            is_file = filesystem(self.root).isfile(Folder(self.root)._path("").rstrip("/"))
        if is_file:
            raise StoreError(
                f"The store {self.root} is a file. Give a folder, which is created when needed, "
                "or a bucket with --store or run.store."
            )

    def check_exists(self) -> None:
        """Raise `StoreError` if nothing has been written to the root yet."""
        with self._readable():
            exists = filesystem(self.root).exists(Folder(self.root)._path("").rstrip("/"))
        if not exists:
            raise StoreError(
                f"There is no store at {self.root}. Give the store of an earlier run with --store "
                "or run.store; `unclip run` creates one."
            )

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest; None if the stage has not finished or its manifest is damaged.

        A damaged manifest is logged once, and `damage` says what is wrong with it.
        """
        return self._read(Manifest, stage, key, (MANIFEST, CONTENTS))

    def _read(self, kind: type[H], stage: str, key: str, files: Sequence[str]) -> H | None:
        folder, values = self.folder(stage, key), {}
        with self._readable():
            try:
                for name in files:
                    values.update(folder.read_json(name))
                read = kind(**values)
            except StoreFileMissingError:
                if not values:
                    return None
                self._note_damage(f"{stage}/{key}", folder.file(files[-1]), "it is gone")
                return None
            except (TypeError, ValueError) as error:
                self._note_damage(f"{stage}/{key}", folder.file(MANIFEST), first_line(error))
                return None
        self._damaged.pop(f"{stage}/{key}", None)
        return read

    def damage(self, stage: str, key: str) -> str | None:
        """Why the manifest cannot be read; None if it can, or if there is none."""
        return self._damaged.get(f"{stage}/{key}")

    def missing_outputs(self, manifest: Manifest) -> list[str]:
        """Outputs that the manifest lists and that are gone or differ in size."""
        folder = self.folder(manifest.stage, manifest.key)
        own, shared = folder.files(), folder.shared().files() if manifest.shards else {}
        return [
            *(name for name, size in manifest.outputs.items() if own.get(name) != size),
            *(name for name, size in manifest.shards.items() if shared.get(name) != size),
        ]

    def headers(self, stage: str) -> list[Header]:
        """All finished results of a stage, the newest first, without what grows with their data."""
        keys = [key for key in self.keys(stage) if "." not in key]  # no replaced results
        with ThreadPoolExecutor(READERS) as threads:
            read = threads.map(lambda key: self._read(Header, stage, key, [MANIFEST]), keys)
            found = [header for header in read if header]
        return sorted(found, key=lambda header: header.created_at, reverse=True)

    def keys(self, stage: str) -> list[str]:
        """The names of all results of a stage, finished or not."""
        with self._readable():
            fs, root = filesystem(self.root), self.folder(stage, "")._path("").rstrip("/")
            try:
                paths = fs.ls(root, detail=False)
            except FileNotFoundError:
                return []
        names = [PurePosixPath(path).name for path in paths]
        return [name for name in names if name != SHARDS]

    def manifests(self, stage: str) -> list[Manifest]:
        """All finished results of a stage, the newest first."""
        return list(self.read_manifests(self.headers(stage)))

    def read_manifests(self, headers: Iterable[Header]) -> Iterator[Manifest]:
        """The manifests of results, each read when it is asked for."""
        read = (self.manifest(header.stage, header.key) for header in headers)
        return (manifest for manifest in read if manifest)

    def commit(self, manifest: Manifest) -> Manifest:
        """Clear working state, list the outputs, and write the manifest: the stage is done."""
        folder = self.folder(manifest.stage, manifest.key)
        files = folder.remove_hidden()
        outputs = {n: s for n, s in files.items() if n not in (MANIFEST, CONTENTS)}
        complete = replace(manifest, outputs=outputs)
        header = {each.name for each in fields(Header)}
        values = vars(complete)
        folder.write_json(CONTENTS, {n: v for n, v in values.items() if n not in header})
        folder.write_json(MANIFEST, {n: v for n, v in values.items() if n in header})
        log.info("%s is finished with %d files", folder.url, len(outputs))
        return complete

    def remove_stale(self) -> None:
        """Delete temporary files of dead writers in the root and its hidden folders."""
        with contextlib.suppress(Exception):  # a failed clean-up must not stop a run
            fs, root = filesystem(self.root), Folder(self.root)._path("").rstrip("/")
            found = {str(info["name"]): info for info in fs.ls(root, detail=True)}
            remove_stale(fs, found)
            for path, info in found.items():
                if is_hidden(PurePosixPath(path).name) and info["type"] == "directory":
                    Folder(Folder(self.root).file(PurePosixPath(path).name)).remove_stale()

    def _note_damage(self, label: str, url: str, reason: str) -> None:
        if label not in self._damaged:
            log.warning("%s cannot be read (%s): the stage counts as not finished", url, reason)
        self._damaged[label] = f"its manifest cannot be read ({reason})"

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Wrap file-system exceptions in one `StoreError` that names the store."""
        try:
            yield
        except Exception as error:
            if isinstance(error, PipelineError) and not isinstance(error, StoreError):
                raise
            reason = first_line(error.__cause__ or error)
            raise StoreError(
                f"The store {self.root} cannot be read: {reason}. Check its address "
                "(--store or run.store) and, for a bucket, the credentials in the environment."
            ) from error
