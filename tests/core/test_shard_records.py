"""Finding finished shards: by records, by what is in the files, and by versions."""

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.core import shard_records
from pipelines.core.filesystem import StoreError
from pipelines.core.folder import Folder
from pipelines.core.shard_records import Journal, ShardRecord, find, publish, read_records
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.store import Store

NUMBERS = pa.schema([pa.field("value", pa.int64(), nullable=False)])
FAULTS = ("none", "short", "grown", "gone", "other gone", "other short", "garbage")


def shard(folder: Folder, stem: str, rows: int = 3) -> ShardRecord:
    """A shard with one further file."""
    table = pa.table({"value": list(range(rows))}, schema=NUMBERS)
    with ShardWriter(folder, stem, NUMBERS) as out:
        out.write(table)
        out.attach("more", table)
        return out.finish({"sum": sum(range(rows))})


def found(folder: Folder, *stems: str, known: dict[str, ShardRecord] | None = None) -> set[str]:
    records = find(folder, folder.files(), {s: s for s in stems}, known or {})
    return {record.stem for record in records.values()}


def damage(folder: Folder, record: ShardRecord, fault: str) -> None:
    own, other = record.files
    name = other if fault.startswith("other") else own
    with folder.open(name) as source:
        content = source.read()
    if fault.endswith("gone"):
        folder.remove_file(name)
    elif fault.endswith("short"):
        folder.write_bytes(name, content[: len(content) // 2])
    elif fault == "grown":
        folder.write_bytes(name, content + b"more")
    elif fault == "garbage":
        folder.write_bytes(name, bytes(len(content)))


def test_a_shard_is_recovered_from_its_file_as_it_was_recorded(store: Store) -> None:
    folder = store.folder("embed", "shards")
    records = {f"{i:03d}": shard(folder, f"{i:03d}", rows=i) for i in range(20)}
    stems = {name: name for name in [*records, "missing"]}
    assert find(folder, folder.files(), stems, {}) == records
    assert find(folder, folder.files(), stems, records) == records


def test_metadata_that_is_longer_than_the_first_read_is_read_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.folder("embed", "shards")
    records = {name: shard(folder, name) for name in ("a", "b")}
    for length in (8, 100, 10**6):
        monkeypatch.setattr(shard_records, "TAIL_BYTES", length)
        assert find(folder, folder.files(), {"a": "a", "b": "b"}, {}) == records


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=8),
    recorded=st.sets(st.integers(0, 7)),
    seed=st.integers(0, 10**6),
)
def test_damaged_shards_are_found_out_with_and_without_records(
    tmp_path_factory: pytest.TempPathFactory, faults: list[str], recorded: set[int], seed: int
) -> None:
    folder = Folder(str(tmp_path_factory.mktemp("shards")))
    rows = random.Random(seed)
    records = [shard(folder, f"s{i}", rows.randrange(500)) for i in range(len(faults))]
    for record, fault in zip(records, faults, strict=True):
        damage(folder, record, fault)
    known = {r.stem: r for i, r in enumerate(records) if i in recorded}
    # A file of zeros of the recorded size passes: its pages are checked when they are read.
    kept = {
        record.stem
        for i, (record, fault) in enumerate(zip(records, faults, strict=True))
        if fault == "none" or (fault == "garbage" and i in recorded)
    }
    assert found(folder, *(r.stem for r in records), known=known) == kept


def test_the_last_intact_version_of_a_shard_counts(store: Store) -> None:
    folder = store.folder("embed", "shards")
    first, second = shard(folder, "a"), shard(folder, "a@20260101T000000")
    other = shard(folder, "b@20250101T000000")
    known = {first.stem: first}
    assert found(folder, "a", "b", known=known) == {second.stem, other.stem}
    third = shard(folder, "a@20260201T000000")
    assert found(folder, "a", "b", known=known) == {third.stem, other.stem}
    damage(folder, third, "short")
    assert found(folder, "a", "b", known=known) == {second.stem, other.stem}
    damage(folder, second, "short")
    assert found(folder, "a", "b", known=known) == {first.stem, other.stem}
    damage(folder, first, "short")
    assert found(folder, "a", "b", known=known) == {other.stem}


def test_a_shard_that_was_replaced_after_its_record_is_read_anew(store: Store) -> None:
    folder = store.folder("embed", "shards")
    old = shard(folder, "a", rows=3)
    new = shard(folder, "a", rows=300)
    assert find(folder, folder.files(), {"a": "a"}, {"a": old}) == {"a": new}


def test_journal_and_published_records_are_read_and_unreadable_ones_are_not(store: Store) -> None:
    folder = store.folder("embed", "k1")
    records = [shard(folder.shared(), name) for name in ("a", "b", "c")]
    assert read_records(folder) == {}
    publish(folder, records[:1])
    journal = Journal(folder)
    for record in records[1:]:
        journal.add(record)
    journal.write()
    assert read_records(folder) == {r.stem: r for r in records}
    folder.write_bytes("shards.json", b'[{"stem"')
    folder.write_json(".journal/0.json", [{"unknown": 1}])
    folder.write_json(".journal/1.json", 3)
    assert set(read_records(folder)) == {"b", "c"}
    known = read_records(folder)
    shared = folder.shared()
    names = {r.stem: r.stem for r in records}
    assert find(shared, shared.files(), names, known) == {r.stem: r for r in records}


def test_shards_that_cannot_be_read_for_now_do_not_count_as_damaged(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    shard(folder, "a")
    sizes = folder.files()
    (tmp_path / "a.parquet").unlink()
    assert find(folder, sizes, {"a": "a"}, {}) == {}
    (tmp_path / "a.parquet").mkdir()  # reading it fails, and not because it is gone
    with pytest.raises(StoreError, match="cannot be read"):
        find(folder, sizes, {"a": "a"}, {})
