"""The store of all results, below any fsspec URL.

`<root>/<stage>/<key>/` holds a stage's outputs and `manifest.json`, which is written last: its
presence is the commit. Files are written under a temporary name and then renamed, so a process
that is killed at any point leaves no half-written file under a final name.
"""

import atexit
import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.errors import PipelineError, first_line
from pipelines.core.filesystem import (
    StoreError,
    StoreWriteError,
    filesystem,
    is_local,
    reading,
    remove_stale,
    temporary_name,
    writing,
)
from pipelines.core.tables import read_table

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
HIDDEN = "."  # files and folders whose names start with it are working state, not outputs


@dataclass(frozen=True)
class Folder:
    """One folder of the store, by its URL; picklable, so that any worker can write to it.

    Methods that read raise `StoreError`, those that write `StoreWriteError`.
    """

    url: str

    def file(self, name: str) -> str:
        """The URL of a file in this folder."""
        return f"{self.url.rstrip('/')}/{name}"

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        with reading(self.file(name)):
            return filesystem(self.url).open(self._path(name), "rb")  # type: ignore[no-any-return]

    def exists(self, name: str) -> bool:
        """Whether the file has been published."""
        with reading(self.file(name)):
            return bool(filesystem(self.url).exists(self._path(name)))

    def publish(self, local: Path, name: str) -> None:
        """Upload a local file, then rename it: readers see all of it or nothing."""
        with self._published(name) as (fs, temporary):
            fs.put_file(str(local), temporary)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Publish a small file from memory."""
        with self._published(name) as (fs, temporary):
            fs.pipe_file(temporary, content)

    def write_json(self, name: str, value: Any) -> None:
        """Publish a value as JSON."""
        self.write_bytes(name, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """The value of a JSON file; raises `ValueError` if it is not JSON."""
        with reading(self.file(name)):
            content = filesystem(self.url).cat_file(self._path(name))
        return json.loads(content)

    def read_table(
        self, name: str, columns: Sequence[str] | None = None, schema: pa.Schema | None = None
    ) -> pa.Table:
        """A Parquet file's columns, in memory.

        With `schema`, raises `SchemaError` unless the whole file has exactly that schema,
        whichever columns are read.
        """
        return read_table(self.file(name), columns, schema)

    def write_table(self, name: str, table: pa.Table) -> int:
        """Publish a table as Parquet; returns its size in bytes."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "table.parquet"
            with writing(str(local)):
                pq.write_table(table, local)
            self.publish(local, name)
            return local.stat().st_size

    def local(self, name: str = "") -> Path:
        """A local path of the file, or of the whole folder.

        In a local store, its own path; otherwise a copy that is deleted when the process exits.
        """
        fs = filesystem(self.url)
        if is_local(fs):
            return Path(self._path(name))
        scratch = Path(tempfile.mkdtemp(prefix="unclip-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        target = scratch / (name or "folder")
        with reading(self.file(name)):
            fs.get(self._path(name).rstrip("/"), str(target), recursive=not name)
        return target

    def files(self) -> dict[str, int]:
        """Every published file below this folder with its size in bytes, hidden ones left out."""
        found = sorted(self._all_files().items())
        return {name: int(info["size"]) for name, info in found if not _is_hidden(name)}

    def is_begun(self) -> bool:
        """Whether the folder holds any file, published or hidden."""
        return bool(self._all_files())

    def marks(self, name: str) -> list[str]:
        """Names of the files below one hidden folder, which `files` leaves out."""
        root = self._path(name)
        with reading(self.file(name)):
            found = filesystem(self.url).find(root)
        names = [str(PurePosixPath(path).relative_to(root)) for path in found]
        return [f"{name}/{n}" for n in names if not _is_hidden(n)]  # no writer's temporary files

    def remove_file(self, name: str) -> None:
        """Delete one file."""
        with writing(self.file(name)):
            filesystem(self.url).rm_file(self._path(name))

    def remove_hidden(self) -> None:
        """Delete working state: temporary files of killed workers, checkpoints of a past run."""
        fs = filesystem(self.url)
        root = self._path("").rstrip("/")
        with writing(self.url):
            for name in sorted(self._all_files()):
                if _is_hidden(name):
                    fs.rm_file(f"{root}/{name}")
            listed = fs.ls(root, detail=False) if fs.exists(root) else []
            for path in listed:  # folders, if the file system has them
                if _is_hidden(PurePosixPath(path).name):
                    fs.rm(path, recursive=True)

    def remove_stale(self) -> None:
        """Delete temporary files of dead writers. Never raises."""
        with contextlib.suppress(StoreError):
            root = self._path("").rstrip("/")
            found = {f"{root}/{name}": info for name, info in self._all_files().items()}
            remove_stale(filesystem(self.url), found)

    def move_to(self, other: "Folder") -> None:
        """Move all files, the manifest first.

        If this is killed in between, neither folder counts as finished: this one has no manifest,
        and the other one lacks outputs.
        """
        fs = filesystem(self.url)
        with writing(other.url):
            for name in sorted(self.files(), key=lambda name: name != MANIFEST):
                fs.makedirs(str(PurePosixPath(other._path(name)).parent), exist_ok=True)
                fs.mv(self._path(name), other._path(name))

    def remove(self) -> None:
        """Delete the folder and its files."""
        root = self._path("").rstrip("/")
        with writing(self.url):
            if filesystem(self.url).exists(root):
                filesystem(self.url).rm(root, recursive=True)

    @contextlib.contextmanager
    def _published(self, name: str) -> Iterator[tuple[Any, str]]:
        """Give a temporary path to write to; rename it when done, delete it after an error."""
        fs, final = filesystem(self.url), self._path(name)
        parent = str(PurePosixPath(final).parent)
        temporary = f"{parent}/{temporary_name()}"
        with writing(self.file(name)):
            try:
                fs.makedirs(parent, exist_ok=True)
                yield fs, temporary
                fs.mv(temporary, final)
            except BaseException:
                with contextlib.suppress(Exception):  # the disk may be full: keep no partial file
                    fs.rm_file(temporary)
                raise

    def _all_files(self) -> dict[str, Mapping[str, Any]]:
        fs = filesystem(self.url)
        root = self._path("").rstrip("/")
        with reading(self.url):
            found = fs.find(root, detail=True) if fs.exists(root) else {}
        return {str(PurePosixPath(p).relative_to(root)): info for p, info in found.items()}

    def _path(self, name: str) -> str:
        return str(filesystem(self.url)._strip_protocol(self.file(name)))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(HIDDEN) for part in PurePosixPath(name).parts)


@dataclass(frozen=True)
class Manifest:
    """The record of one finished stage: what it is, what it made, and where it came from."""

    stage: str
    key: str
    version: int
    description: Mapping[str, Any]  # the canonical form that the key is the digest of
    dependencies: Mapping[str, str]  # field → "stage/key"
    metadata: Mapping[str, Any]  # the artifact's fields
    outputs: Mapping[str, int]  # file → bytes
    provenance: Mapping[str, Any]  # commit, packages, host: recorded, not hashed
    links: Mapping[str, str]  # where people can look at it, such as its MLflow run
    created_at: str  # ISO 8601, UTC
    duration_s: float


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
        with self._readable():
            folder = self.folder(stage, key)
            if not folder.exists(MANIFEST):
                return None
            try:
                manifest = Manifest(**folder.read_json(MANIFEST))
            except (TypeError, ValueError) as error:
                self._note_damage(f"{stage}/{key}", folder.file(MANIFEST), first_line(error))
                return None
        self._damaged.pop(f"{stage}/{key}", None)
        return manifest

    def damage(self, stage: str, key: str) -> str | None:
        """Why the manifest cannot be read; None if it can, or if there is none."""
        return self._damaged.get(f"{stage}/{key}")

    def missing_outputs(self, manifest: Manifest) -> list[str]:
        """Outputs that the manifest lists and that are gone or differ in size."""
        found = self.folder(manifest.stage, manifest.key).files()
        return [name for name, size in manifest.outputs.items() if found.get(name) != size]

    def manifests(self, stage: str) -> list[Manifest]:
        """All finished results of a stage, the newest first."""
        with self._readable():
            fs, root = filesystem(self.root), self.folder(stage, "")._path("").rstrip("/")
            paths = fs.ls(root, detail=False) if fs.exists(root) else []
        names = [str(p).rsplit("/", 1)[-1] for p in paths]
        found = [self.manifest(stage, name) for name in names if "." not in name]
        return sorted((m for m in found if m), key=lambda m: m.created_at, reverse=True)

    def commit(self, manifest: Manifest) -> Manifest:
        """Clear working state, list the outputs, and write the manifest: the stage is done."""
        folder = self.folder(manifest.stage, manifest.key)
        folder.remove_hidden()
        outputs = {n: s for n, s in folder.files().items() if n != MANIFEST}
        complete = replace(manifest, outputs=outputs)
        folder.write_json(MANIFEST, asdict(complete))
        log.info("%s is finished with %d files", folder.url, len(outputs))
        return complete

    def remove_stale(self) -> None:
        """Delete temporary files of dead writers in the root and its hidden folders."""
        with contextlib.suppress(Exception):  # a failed clean-up must not stop a run
            fs, root = filesystem(self.root), Folder(self.root)._path("").rstrip("/")
            found = {str(info["name"]): info for info in fs.ls(root, detail=True)}
            remove_stale(fs, found)
            for path, info in found.items():
                if _is_hidden(PurePosixPath(path).name) and info["type"] == "directory":
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
