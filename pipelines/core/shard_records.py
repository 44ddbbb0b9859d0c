"""Records of finished shards: file size and metadata, by which damaged shards are detected.

While a stage runs, every shard has a mark `.done/<name>.json`. When all shards are made, their
records are published together as `shards.json`, which stays: a later run of the stage makes only
the shards that are missing or differ from their record.
"""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq

from pipelines.core.filesystem import StoreError
from pipelines.core.folder import Folder

log = logging.getLogger(__name__)

DONE = ".done"
RECORDS = "shards.json"
READERS = 16  # threads that open shards to check them


@dataclass(frozen=True)
class ShardRecord:
    """One shard: the size of its file and the metadata that its worker returned."""

    size: int  # bytes
    metadata: Mapping[str, Any]


def mark(folder: Folder, name: str, record: ShardRecord) -> None:
    """Record that a shard is made."""
    folder.write_json(f"{DONE}/{name}.json", asdict(record))


def intact(folder: Folder, names: Iterable[str]) -> dict[str, ShardRecord]:
    """The records of those shards whose files have the recorded size and open as Parquet."""
    wanted = set(names)
    records = {n: r for n, r in _read(folder).items() if n in wanted}
    if not records:
        return {}
    sizes = folder.files()
    with ThreadPoolExecutor(READERS) as threads:
        found = threads.map(lambda n: _is_intact(folder, n, records[n], sizes), records)
        return {name: records[name] for name, good in zip(records, found, strict=True) if good}


def publish(folder: Folder, records: Mapping[str, ShardRecord]) -> None:
    """Write the records of all shards to one file."""
    folder.write_json(RECORDS, {name: asdict(record) for name, record in records.items()})


def forget(folder: Folder, names: Iterable[str]) -> None:
    """Remove the records of these shards, so that the next run makes them again."""
    dropped = set(names)
    for name in dropped:
        if folder.exists(f"{DONE}/{name}.json"):
            folder.remove_file(f"{DONE}/{name}.json")
    if folder.exists(RECORDS):
        publish(folder, {n: r for n, r in _read(folder).items() if n not in dropped})


def _read(folder: Folder) -> dict[str, ShardRecord]:
    """All records: the published ones, and the marks of an interrupted run."""
    published = _json(folder, RECORDS) if folder.exists(RECORDS) else {}
    marks = {
        path.removeprefix(f"{DONE}/").removesuffix(".json"): _json(folder, path)
        for path in folder.marks(DONE)
    }
    found = {**(published or {}), **marks}
    return {name: ShardRecord(**value) for name, value in found.items() if _is_record(value)}


def _json(folder: Folder, name: str) -> Any:
    try:
        return folder.read_json(name)
    except ValueError as error:
        log.warning("%s cannot be read, so its shards are made again: %s", folder.file(name), error)
        return None


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"size", "metadata"}


def _is_intact(folder: Folder, name: str, record: ShardRecord, sizes: Mapping[str, int]) -> bool:
    file = f"{name}.parquet"
    if sizes.get(file) != record.size:
        log.info("%s is gone or has changed in size", folder.file(file))
        return False
    try:
        with folder.open(file) as source:
            pq.ParquetFile(source)
    except (StoreError, OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        log.info("%s cannot be opened: %s", folder.file(file), error)
        return False
    return True
