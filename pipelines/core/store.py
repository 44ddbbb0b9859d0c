"""Where results live: any fsspec root.

`<root>/<stage>/<key>/` holds a stage's outputs and `manifest.json`, which is written last: its
presence is the commit. Files are written under a temporary name and published whole, so a process
that is killed at any point leaves no half-written file under a name that somebody reads.
"""

import atexit
import contextlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.errors import PipelineError

MANIFEST = "manifest.json"
HIDDEN = "."  # files and folders that begin so are working state, not outputs


class StoreError(PipelineError):
    """The store cannot be used, or does not hold what it should."""


@dataclass(frozen=True)
class Folder:
    """One folder of the store, by its URL; picklable, so that any worker can write to it."""

    url: str

    def file(self, name: str) -> str:
        """The URL of a file in this folder."""
        return f"{self.url.rstrip('/')}/{name}"

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        return _fs(self.url).open(self._path(name), "rb")  # type: ignore[no-any-return]

    def exists(self, name: str) -> bool:
        """Whether the file has been published."""
        return bool(_fs(self.url).exists(self._path(name)))

    def publish(self, local: Path, name: str) -> None:
        """Upload a local file, then give it its name: readers see all of it or nothing."""
        fs = _fs(self.url)
        final = self._path(name)
        parent = str(PurePosixPath(final).parent)
        temporary = f"{parent}/.tmp-{uuid.uuid4().hex}"
        fs.makedirs(parent, exist_ok=True)
        fs.put_file(str(local), temporary)
        fs.mv(temporary, final)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Publish a small file from memory."""
        fs = _fs(self.url)
        final = self._path(name)
        parent = str(PurePosixPath(final).parent)
        temporary = f"{parent}/.tmp-{uuid.uuid4().hex}"
        fs.makedirs(parent, exist_ok=True)
        fs.pipe_file(temporary, content)
        fs.mv(temporary, final)

    def write_json(self, name: str, value: Any) -> None:
        """Publish a value as JSON."""
        self.write_bytes(name, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """The value of a JSON file."""
        return json.loads(_fs(self.url).cat_file(self._path(name)))

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file's columns, in memory."""
        with self.open(name) as source:
            return pq.read_table(source, columns=columns)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Publish a table as Parquet."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "table.parquet"
            pq.write_table(table, local)
            self.publish(local, name)

    def local(self, name: str = "") -> Path:
        """A path on this machine with the file's, or the folder's, content.

        A local store's own path; else a copy that lasts as long as the process.
        """
        fs = _fs(self.url)
        if "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
            return Path(self._path(name))
        scratch = Path(tempfile.mkdtemp(prefix="unclip-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        target = scratch / (name or "folder")
        fs.get(self._path(name).rstrip("/"), str(target), recursive=not name)
        return target

    def files(self) -> dict[str, int]:
        """Every published file below this folder with its size in bytes, hidden ones left out."""
        return {n: s for n, s in sorted(self._all_files().items()) if not _is_hidden(n)}

    def is_begun(self) -> bool:
        """Whether anything is here, finished or not."""
        return bool(self._all_files())

    def _all_files(self) -> dict[str, int]:
        fs = _fs(self.url)
        root = self._path("").rstrip("/")
        if not fs.exists(root):
            return {}
        found = fs.find(root, detail=True)
        return {str(PurePosixPath(p).relative_to(root)): i["size"] for p, i in found.items()}

    def marks(self, name: str) -> list[str]:
        """Names of the files below one hidden folder, which `files` leaves out."""
        root = self._path(name)
        return [f"{name}/{PurePosixPath(p).relative_to(root)}" for p in _fs(self.url).find(root)]

    def remove_file(self, name: str) -> None:
        """Delete one file."""
        _fs(self.url).rm_file(self._path(name))

    def remove_hidden(self) -> None:
        """Delete working state: temporary files of killed workers, checkpoints of a past run."""
        fs = _fs(self.url)
        root = self._path("").rstrip("/")
        for name in sorted(self._all_files()):
            if _is_hidden(name):
                fs.rm_file(f"{root}/{name}")
        for path in fs.ls(root, detail=False):  # folders, where the file system has them
            if _is_hidden(PurePosixPath(path).name):
                fs.rm(path, recursive=True)

    def move_to(self, other: "Folder") -> None:
        """Move all files, the manifest first: killed in between, neither counts as finished."""
        fs = _fs(self.url)
        for name in sorted(self.files(), key=lambda name: name != MANIFEST):
            fs.makedirs(str(PurePosixPath(other._path(name)).parent), exist_ok=True)
            fs.mv(self._path(name), other._path(name))

    def remove(self) -> None:
        """Delete the folder with all it holds."""
        root = self._path("").rstrip("/")
        if _fs(self.url).exists(root):
            _fs(self.url).rm(root, recursive=True)

    def _path(self, name: str) -> str:
        return str(_fs(self.url)._strip_protocol(self.file(name)))


def _fs(url: str) -> Any:
    # Other processes write here too: a listing that was remembered would hide what they made.
    return fsspec.core.url_to_fs(url, use_listings_cache=False)[0]


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
    """The root that all stages write below."""

    def __init__(self, root: str) -> None:
        self.root = root if "://" in root else str(Path(root).absolute())

    def folder(self, stage: str, key: str) -> Folder:
        """Where the stage of this key writes."""
        return Folder(f"{self.root.rstrip('/')}/{stage}/{key}")

    def check_writable(self) -> None:
        """Write, read and delete a small file; raises `StoreError` where that cannot be done."""
        probe = Folder(self.root)
        name = f".probe-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(name, b"unclip")
            read = _fs(self.root).cat_file(probe._path(name))
            _fs(self.root).rm_file(probe._path(name))
        except Exception as error:
            raise StoreError(
                f"The store {self.root} cannot be written: {_first_line(error)}. "
                "Give a folder or bucket that you may write to with --store or run.store."
            ) from error
        if read != b"unclip":
            raise StoreError(f"The store {self.root} returned other bytes than were written to it.")

    def check_root(self) -> None:
        """Raise `StoreError` where the root is a file; nothing need be there yet."""
        with self._readable():
            is_file = _fs(self.root).isfile(Folder(self.root)._path("").rstrip("/"))
        if is_file:
            raise StoreError(
                f"The store {self.root} is a file. Give a folder, which need not be there yet, or "
                "a bucket with --store or run.store."
            )

    def check_exists(self) -> None:
        """Raise `StoreError` where nothing has been written to the root yet."""
        with self._readable():
            exists = _fs(self.root).exists(Folder(self.root)._path("").rstrip("/"))
        if not exists:
            raise StoreError(
                f"There is no store at {self.root}. Give the store of an earlier run with --store "
                "or run.store; `unclip run` creates one."
            )

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest, or None where the stage has not finished."""
        with self._readable():
            folder = self.folder(stage, key)
            return _read_manifest(folder) if folder.exists(MANIFEST) else None

    def missing_outputs(self, manifest: Manifest) -> list[str]:
        """Outputs that the manifest lists and the store has lost or changed in size."""
        there = self.folder(manifest.stage, manifest.key).files()
        return [name for name, size in manifest.outputs.items() if there.get(name) != size]

    def manifests(self, stage: str) -> list[Manifest]:
        """All finished results of a stage, the newest first."""
        with self._readable():
            fs, root = _fs(self.root), self.folder(stage, "")._path("").rstrip("/")
            paths = fs.ls(root, detail=False) if fs.exists(root) else []
        names = [str(p).rsplit("/", 1)[-1] for p in paths]
        found = [self.manifest(stage, name) for name in names if "." not in name]
        return sorted((m for m in found if m), key=lambda m: m.created_at, reverse=True)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Tell what a file system raises, which may be anything, as one error of the store."""
        try:
            yield
        except PipelineError:
            raise
        except Exception as error:
            raise StoreError(
                f"The store {self.root} cannot be read: {_first_line(error)}. Check its address "
                "(--store or run.store) and, for a bucket, the credentials in the environment."
            ) from error

    def commit(self, manifest: Manifest) -> Manifest:
        """Clear working state, list what was made, and write the manifest: the stage is done."""
        folder = self.folder(manifest.stage, manifest.key)
        folder.remove_hidden()
        outputs = {n: s for n, s in folder.files().items() if n != MANIFEST}
        complete = Manifest(**{**asdict(manifest), "outputs": outputs})
        folder.write_json(MANIFEST, asdict(complete))
        return complete


def _read_manifest(folder: Folder) -> Manifest:
    try:
        return Manifest(**folder.read_json(MANIFEST))
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"{folder.file(MANIFEST)} cannot be read: {_first_line(error)}. "
            "Remove that folder, and the stage will run again."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
