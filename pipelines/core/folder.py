"""A folder of the store: the only code that reads and writes the files of stages.

A process that is killed at any point leaves no half-written file under a final name: files are
written under a temporary name and then renamed. An object store needs no such step.
"""

import atexit
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.filesystem import (
    AT_ONCE,
    StoreError,
    filesystem,
    is_local,
    is_object_store,
    modified_time,
    reading,
    remove_stale,
    temporary_name,
    upload,
    writing,
)
from pipelines.core.tables import read_table

MANIFEST = "manifest.json"  # written last: its presence is the commit
SHARDS = "shards"  # the folder of a stage that holds the shards of all its results
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

    def shared(self) -> "Folder":
        """For a stage's folder `<stage>/<key>`: the shards that its results share."""
        return Folder(f"{self.url.rstrip('/').rpartition('/')[0]}/{SHARDS}")

    def publish(self, local: Path, name: str) -> None:
        """Upload a local file: readers see all of it or nothing."""
        with self._published(name) as (fs, temporary):
            upload(fs, local, temporary)

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

    def read_ranges(self, spans: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
        """Bytes of many files, read at the same time.

        spans: first byte and end, by file. Files that are gone are left out.
        """
        fs, paths = filesystem(self.url), [self._path(name) for name in spans]
        starts, ends = [span[0] for span in spans.values()], [span[1] for span in spans.values()]
        with reading(self.url):
            # Without a limit, an event loop that begins a thousand requests misses their answers.
            limit = {"batch_size": AT_ONCE} if fs.async_impl else {}
            found = fs.cat_ranges(paths, starts, ends, on_error="return", **limit)
            errors = [each for each in found if isinstance(each, BaseException)]
            for error in errors:
                if not isinstance(error, FileNotFoundError):
                    raise error
        read = zip(spans, found, strict=True)
        return {name: content for name, content in read if isinstance(content, bytes)}

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
        return {name: int(info["size"]) for name, info in found if not is_hidden(name)}

    def names(self) -> list[str]:
        """The names of all files below this folder, hidden ones included."""
        return sorted(self._all_files())

    def modified(self) -> dict[str, float]:
        """When every published file was written, as Unix time; now, if that is not known."""
        found, now = self._all_files().items(), time.time()
        return {name: modified_time(info) or now for name, info in found if not is_hidden(name)}

    def remove_files(self, names: Iterable[str]) -> None:
        """Delete files, many with one request."""
        paths = [self._path(name) for name in names]
        if paths:
            with writing(self.url):
                filesystem(self.url).rm(paths)

    def is_begun(self) -> bool:
        """Whether the folder holds any file, published or hidden."""
        return bool(self._all_files())

    def marks(self, name: str) -> list[str]:
        """Names of the files below one hidden folder, which `files` leaves out."""
        return [f"{name}/{file}" for file in self.sizes(name)]

    def sizes(self, name: str) -> dict[str, int]:
        """The files below one folder, hidden or not, by their path in it, and their sizes."""
        root = self._path(name)
        with reading(self.file(name)):
            found = filesystem(self.url).find(root, detail=True)
        sizes = {str(PurePosixPath(path).relative_to(root)): found[path]["size"] for path in found}
        # Without the temporary files of writers.
        return {file: int(size) for file, size in sizes.items() if not is_hidden(file)}

    def remove_file(self, name: str) -> None:
        """Delete one file."""
        with writing(self.file(name)):
            filesystem(self.url).rm_file(self._path(name))

    def remove_hidden(self) -> dict[str, int]:
        """Delete working state, such as journals and temporary files of killed workers.

        Returns what `files` does.
        """
        fs, root = filesystem(self.url), self._path("").rstrip("/")
        found = {name: int(info["size"]) for name, info in self._all_files().items()}
        self.remove_files(name for name in sorted(found) if is_hidden(name))
        with writing(self.url):
            if not is_object_store(fs) and fs.exists(root):
                for path in fs.ls(root, detail=False):  # folders that are empty now
                    if is_hidden(PurePosixPath(path).name):
                        fs.rm(path, recursive=True)
        return {name: size for name, size in sorted(found.items()) if not is_hidden(name)}

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
        """Give a path to write to: a temporary one, renamed when done, unless writes are atomic."""
        fs, final = filesystem(self.url), self._path(name)
        with writing(self.file(name)):
            if is_object_store(fs):  # which shows an object only once it is complete
                yield fs, final
                return
            parent = str(PurePosixPath(final).parent)
            temporary = f"{parent}/{temporary_name()}"
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
            found = fs.find(root, detail=True)
        return {str(PurePosixPath(p).relative_to(root)): info for p, info in found.items()}

    def _path(self, name: str) -> str:
        return str(filesystem(self.url)._strip_protocol(self.file(name)))


def is_hidden(name: str) -> bool:
    """Whether a path below a folder is working state."""
    return any(part.startswith(HIDDEN) for part in PurePosixPath(name).parts)
