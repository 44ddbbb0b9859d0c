"""Records of finished shards, by which later runs find them.

A shard is a Parquet file `<stem>.parquet`, and perhaps further files `<stem>.<name>.parquet`. It
may exist in several versions, `<stem>@<version>`, of which the last intact one in the order of
names counts. While a stage runs, the driver writes the records of finished shards to its journal,
several at a time. When all are made, they are published together as `shards.json`. A shard that no
record names, because the driver was killed, is known by the metadata in its file.
"""

import json
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.filesystem import StoreFileMissingError
from pipelines.core.folder import Folder

log = logging.getLogger(__name__)

JOURNAL = ".journal"
RECORDS = "shards.json"
METADATA = b"unclip"  # key of the metadata in a shard's file
VERSION = "@"
SUFFIX = ".parquet"
FILES = "files"  # in the metadata: the further files and their sizes
JOURNAL_EVERY_S = 10.0
JOURNAL_SHARE = 0.01  # of the time that the stage has run: so a long run has few batches
READERS = 64  # threads that read batches of records
TAIL_BYTES = 128 << 10  # of a shard; its metadata is there, for up to about 90 row groups
BATCH = 1024  # shards whose metadata is read at once, in at most 128 MiB


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
    folder: Folder,
    sizes: Mapping[str, int],
    stems: Mapping[str, str],
    known: Mapping[str, ShardRecord],
) -> dict[str, ShardRecord]:
    """The shards of a folder that exist and are intact: name → record.

    sizes: of all files of the folder. stems: the stem of each wanted name; the last intact version
    of it counts. known: records by stem. A shard is intact if its files have the recorded sizes;
    only shards without a fitting record are opened. Raises `StoreError` if they cannot be read.
    """
    versions = all_versions(sizes)
    found: dict[str, ShardRecord] = {}
    wanted = {name: iter(versions.get(stem, ())) for name, stem in stems.items()}
    while last := {n: v for n, rest in wanted.items() if n not in found and (v := next(rest, ""))}:
        found |= _find_intact(folder, sizes, last, known)
    return {name: found[name] for name in stems if name in found}


def _find_intact(
    folder: Folder,
    sizes: Mapping[str, int],
    stems: Mapping[str, str],
    known: Mapping[str, ShardRecord],
) -> dict[str, ShardRecord]:
    """Those of these shards that are intact."""
    found = {n: known[stem] for n, stem in stems.items() if stem in known}
    found = {n: record for n, record in found.items() if _is_intact(record, sizes)}
    unrecorded = {stem: sizes[f"{stem}{SUFFIX}"] for n, stem in stems.items() if n not in found}
    recovered = {r.stem: r for r in _recover(folder, unrecorded) if _is_intact(r, sizes)}
    return found | {n: recovered[stem] for n, stem in stems.items() if stem in recovered}


def _is_intact(record: ShardRecord, sizes: Mapping[str, int]) -> bool:
    """Whether the files of a shard have their sizes."""
    return all(sizes.get(file) == size for file, size in record.files.items())


class Journal:
    """The driver's records of finished shards, written several at a time."""

    def __init__(self, result: Folder) -> None:
        self.result = result
        self._batch: list[ShardRecord] = []
        self._began = self._written = time.monotonic()

    def add(self, record: ShardRecord) -> None:
        """Record a shard; written with others, at the latest with the next one after some time."""
        self._batch.append(record)
        wait_s = max(JOURNAL_EVERY_S, JOURNAL_SHARE * (self._written - self._began))
        if time.monotonic() - self._written > wait_s:
            self.write()

    def write(self) -> None:
        """Write the records that are not written yet."""
        self._written = time.monotonic()
        if self._batch:
            batch, self._batch = [vars(record) for record in self._batch], []
            self.result.write_json(f"{JOURNAL}/{uuid.uuid4().hex}.json", batch)


def publish(folder: Folder, records: Iterable[ShardRecord]) -> None:
    """Write the records of all shards of a result to one file."""
    folder.write_json(RECORDS, [vars(record) for record in records])


def read_records(folder: Folder) -> dict[str, ShardRecord]:
    """The records of one result by stem: the published ones and the journal."""
    files = [RECORDS, *folder.marks(JOURNAL)]
    with ThreadPoolExecutor(READERS) as threads:
        batches = list(threads.map(lambda file: _read(folder, file), files))
    return {record.stem: record for batch in batches for record in batch}


def _read(folder: Folder, file: str) -> list[ShardRecord]:
    try:
        return [ShardRecord(**values) for values in folder.read_json(file)]
    except StoreFileMissingError:
        return []
    except (TypeError, ValueError) as error:
        log.warning("%s cannot be read, so its shards are opened: %s", folder.file(file), error)
        return []


def all_versions(files: Iterable[str]) -> dict[str, list[str]]:
    """Stem without version → the stems of its versions, the last one first."""
    stems = (f.removesuffix(SUFFIX) for f in files if "." not in f.removesuffix(SUFFIX))
    versions: dict[str, list[str]] = defaultdict(list)
    for stem in sorted(stems, reverse=True):
        versions[stem.partition(VERSION)[0]].append(stem)
    return versions


def _recover(folder: Folder, sizes: Mapping[str, int]) -> Iterator[ShardRecord]:
    """The records of shards, from the shards themselves; damaged ones are left out.

    sizes: of the shards' own files, by stem.
    """
    stems = list(sizes)
    for start in range(0, len(stems), BATCH):
        yield from _from_tails(folder, {s: sizes[s] for s in stems[start : start + BATCH]})


def _from_tails(folder: Folder, sizes: Mapping[str, int]) -> Iterator[ShardRecord]:
    tails = _read_ends(folder, sizes, dict.fromkeys(sizes, TAIL_BYTES))
    needed = {stem: _metadata_bytes(tail) for stem, tail in tails.items()}
    longer = {s: n for s, n in needed.items() if len(tails[s]) < n <= sizes[s]}
    for stem, tail in (tails | _read_ends(folder, sizes, longer)).items():
        try:
            metadata = json.loads(pq.read_metadata(pa.BufferReader(tail)).metadata[METADATA])
            rows, digest = metadata.pop("rows"), metadata.pop("digest")
            files = {f"{stem}{SUFFIX}": sizes[stem], **metadata.pop(FILES)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.info("shard %s cannot be used, so it is made again: %s", stem, error)
        else:
            yield ShardRecord(stem, rows, digest, files, metadata)


def _read_ends(
    folder: Folder, sizes: Mapping[str, int], lengths: Mapping[str, int]
) -> dict[str, bytes]:
    """The last bytes of shards, by stem."""
    spans = {f"{s}{SUFFIX}": (max(0, sizes[s] - n), sizes[s]) for s, n in lengths.items()}
    return {f.removesuffix(SUFFIX): end for f, end in folder.read_ranges(spans).items()}


def _metadata_bytes(tail: bytes) -> int:
    """How long the end of a Parquet file is that holds its metadata, from the file's last bytes."""
    return int.from_bytes(tail[-8:-4], "little") + 8
