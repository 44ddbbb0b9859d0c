"""Records for the tracking server, and the folder of the store that keeps those not yet sent."""

import json
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
STALE_S = 600.0  # a temporary file of this age belongs to a process that was killed


@dataclass(frozen=True)
class Record:
    """One piece of information about a run: small, and representable as JSON."""

    kind: str  # run, batch, file, text, dataset or end
    run: str  # our own id of the run, not MLflow's
    body: Mapping[str, Any]
    refusals: int = 0


class SpoolFolder:
    """A folder with one file for each record, named so that sorting gives the order of writing."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"  # later runs sort after it
        self.count = 0

    def add(self, record: Record) -> str:
        """Write a record; returns the name of its file. Raises what the file system raises."""
        self.count += 1
        name = f"{self.session}-{self.count:08d}.json"
        fs, root = self._root()
        temporary = f"{root}/{TEMPORARY}{name}"
        fs.makedirs(root, exist_ok=True)
        try:
            fs.pipe_file(temporary, json.dumps(asdict(record), ensure_ascii=False).encode())
            fs.mv(temporary, f"{root}/{name}")
        except BaseException:
            if fs.exists(temporary):
                fs.rm_file(temporary)
            raise
        return name

    def remove(self, name: str) -> None:
        """Delete a record. Another run that sent the same record may have deleted it before."""
        fs, root = self._root()
        if fs.exists(f"{root}/{name}"):
            fs.rm_file(f"{root}/{name}")

    def load(self) -> list[tuple[str, Record]]:
        """The records of earlier runs, the oldest first. Unreadable files are left out."""
        fs, root = self._root()
        if not fs.exists(root):
            return []
        found = []
        for name in sorted(PurePosixPath(p).name for p in fs.ls(root, detail=False)):
            if name.startswith(TEMPORARY):
                continue
            try:
                found.append((name, Record(**json.loads(fs.cat_file(f"{root}/{name}")))))
            except (TypeError, json.JSONDecodeError, FileNotFoundError) as error:
                log.warning("%s/%s is not a tracking record: %s", root, name, error)
        return found

    def clean(self) -> None:
        """Delete temporary files that killed processes left, and the folders if empty."""
        fs, root = self._root()
        if not fs.exists(root):
            return
        for path in fs.ls(root, detail=False):
            if PurePosixPath(path).name.startswith(TEMPORARY) and _age_s(fs, path) > STALE_S:
                log.debug("deleting %s, left by a process that was killed", path)
                fs.rm_file(path)
        for folder in (root, str(PurePosixPath(root).parent)):
            if fs.exists(folder) and not fs.ls(folder, detail=False):
                fs.rmdir(folder)

    def _root(self) -> tuple[Any, str]:
        # No cache: other processes write here too.
        fs, root = url_to_fs(self.url, use_listings_cache=False)
        return fs, str(root).rstrip("/")


def _age_s(fs: Any, path: str) -> float:
    modified: datetime = fs.modified(path)
    return time.time() - modified.timestamp()
