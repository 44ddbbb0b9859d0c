"""Records of finished shards, by which later runs find them.

A shard is a Parquet file `<stem>.parquet`, and perhaps further files `<stem>.<name>.parquet`. It
may exist in several versions, `<stem>@<version>`, of which the last in the order of names counts.
While a stage runs, the driver writes the records of finished shards to its journal, several at a
time. When all are made, they are published together as `shards.json`. A shard that no record names,
because the driver was killed, is known by the metadata in its file.
"""

import json
import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from pipelines.core.filesystem import StoreError
from pipelines.core.folder import Folder

log = logging.getLogger(__name__)

JOURNAL = ".journal"
RECORDS = "shards.json"
METADATA = b"unclip"  # key of the metadata in a shard's file
VERSION = "@"
SUFFIX = ".parquet"
JOURNAL_EVERY_S = 10.0
READERS = 64  # threads that open shards which have no record


@dataclass(frozen=True)
class ShardRecord:
    """One finished shard."""

    stem: str  # of its file
    rows: int
    digest: str  # of the content, for the stages that read it
    files: Mapping[str, int]  # file → bytes, the shard's own file first
    metadata: Mapping[str, Any]  # from its worker

    @property
    def version(self) -> str:
        """The shard's version; "" for the first one."""
        return self.stem.partition(VERSION)[2]


def new_version() -> str:
    """A version that comes after all earlier ones in the order of names."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")


def find(
    folder: Folder, stems: Mapping[str, str], known: Mapping[str, ShardRecord]
) -> dict[str, ShardRecord]:
    """The shards of a folder that exist and are intact: name → record.

    stems: the stem of each wanted name; the last version of it counts. known: records by stem.
    A shard is intact if its files have the recorded sizes. One listing finds all files; only
    shards without a record are opened.
    """
    sizes = folder.files()
    versions = _last_versions(sizes)
    found: dict[str, ShardRecord] = {}
    unrecorded: dict[str, str] = {}
    for name, stem in stems.items():
        last = versions.get(stem)
        record = known.get(last) if last else None
        if record and all(sizes.get(file) == size for file, size in record.files.items()):
            found[name] = record
        elif last:
            unrecorded[name] = last
    with ThreadPoolExecutor(READERS) as threads:
        records = threads.map(lambda stem: _recover(folder, stem, sizes), unrecorded.values())
        found |= {name: r for name, r in zip(unrecorded, records, strict=True) if r}
    return {name: found[name] for name in stems if name in found}


class Journal:
    """The driver's records of finished shards, written several at a time."""

    def __init__(self, result: Folder) -> None:
        self.result = result
        self._batch: list[ShardRecord] = []
        self._written_at = time.monotonic()

    def add(self, record: ShardRecord) -> None:
        """Record a shard; written with others, at the latest with the next one after some time."""
        self._batch.append(record)
        if time.monotonic() - self._written_at > JOURNAL_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the records that are not written yet."""
        self._written_at = time.monotonic()
        if self._batch:
            batch, self._batch = [asdict(record) for record in self._batch], []
            self.result.write_json(f"{JOURNAL}/{uuid.uuid4().hex}.json", batch)


def publish(folder: Folder, records: Iterable[ShardRecord]) -> None:
    """Write the records of all shards of a result to one file."""
    folder.write_json(RECORDS, [asdict(record) for record in records])


def read_records(folder: Folder) -> dict[str, ShardRecord]:
    """The records of one result by stem: the published ones and the journal."""
    files = [*([RECORDS] if folder.exists(RECORDS) else []), *folder.marks(JOURNAL)]
    with ThreadPoolExecutor(READERS) as threads:
        batches = list(threads.map(lambda file: _read(folder, file), files))
    return {record.stem: record for batch in batches for record in batch}


def _read(folder: Folder, file: str) -> list[ShardRecord]:
    try:
        return [ShardRecord(**values) for values in folder.read_json(file)]
    except (TypeError, ValueError) as error:
        log.warning("%s cannot be read, so its shards are opened: %s", folder.file(file), error)
        return []


def _last_versions(files: Iterable[str]) -> dict[str, str]:
    """Stem without version → stem of its last version."""
    stems = sorted(f.removesuffix(SUFFIX) for f in files if "." not in f.removesuffix(SUFFIX))
    return {stem.partition(VERSION)[0]: stem for stem in stems}


def _recover(folder: Folder, stem: str, sizes: Mapping[str, int]) -> ShardRecord | None:
    """The record of a shard, from the shard itself; None if the file is damaged."""
    file = f"{stem}{SUFFIX}"
    try:
        with folder.open(file) as source:
            text = pq.ParquetFile(source).metadata.metadata[METADATA]
        metadata = json.loads(text)
        rows, digest = metadata.pop("rows"), metadata.pop("digest")
    except (StoreError, OSError, ValueError, KeyError, TypeError) as error:
        log.info("%s cannot be used, so it is made again: %s", folder.file(file), error)
        return None
    others = {f: s for f, s in sizes.items() if f.startswith(f"{stem}.") and f != file}
    return ShardRecord(stem, rows, digest, {file: sizes[file], **others}, metadata)
