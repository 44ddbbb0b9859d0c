"""The store, on a local disk, in memory and on a real S3 server."""

import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipelines.artifacts import SelectionShards
from pipelines.core.filesystem import StoreError, StoreWriteError, temporary_name
from pipelines.core.folder import Folder
from pipelines.core.stage import ShardEntry
from pipelines.core.stage_maker import manifest_of
from pipelines.core.store import Manifest, Store
from pipelines.core.tables import SchemaError
from tests.core.toys import Count


def manifest(key: str = "k1", created_at: str = "2026-01-01T00:00:00+00:00") -> Manifest:
    return Manifest(
        stage="embed",
        key=key,
        version=1,
        description={"stage": "embed"},
        dependencies={},
        metadata={"rows": {"00000": 2}},
        outputs={},
        provenance={},
        links={},
        created_at=created_at,
        duration_s=1.0,
    )


def test_a_stage_is_there_only_once_its_manifest_is(store: Store) -> None:
    folder = store.folder("embed", "k1")
    folder.write_table("00000.parquet", pa.table({"a": [1, 2]}))
    assert store.manifest("embed", "k1") is None
    committed = store.commit(manifest())
    assert store.manifest("embed", "k1") == committed
    assert set(committed.outputs) == {"00000.parquet"}
    assert folder.read_table("00000.parquet")["a"].to_pylist() == [1, 2]
    assert store.missing_outputs(committed) == []


def test_a_stage_that_writes_no_file_is_committed_too(store: Store) -> None:
    committed = store.commit(manifest())
    assert committed.outputs == {}
    assert store.manifest("embed", "k1") == committed


def test_an_output_that_is_lost_or_cut_short_is_noticed(store: Store) -> None:
    folder = store.folder("embed", "k1")
    folder.write_bytes("a.bin", b"12345")
    folder.write_bytes("deep/b.bin", b"12345")
    committed = store.commit(manifest())
    folder.write_bytes("a.bin", b"123")
    folder.remove_file("deep/b.bin")
    assert store.missing_outputs(committed) == ["a.bin", "deep/b.bin"]


def test_working_state_is_removed_by_the_commit_and_never_an_output(store: Store) -> None:
    folder = store.folder("embed", "k1")
    folder.write_bytes("a.bin", b"1")
    folder.write_json(".done/00000.json", {"rows": 1})
    folder.write_bytes(".tmp-killed", b"half")
    assert folder.marks(".done") == [".done/00000.json"]
    assert set(store.commit(manifest()).outputs) == {"a.bin"}
    assert folder.marks(".done") == []


def test_results_are_listed_newest_first_and_replaced_ones_are_not(store: Store) -> None:
    for key, year in (("k1", 2024), ("k2", 2026), ("k3", 2025)):
        store.folder("embed", key).write_bytes("a.bin", b"1")
        store.commit(manifest(key, f"{year}-01-01T00:00:00+00:00"))
    store.folder("embed", "k3").move_to(store.folder("embed", "k3.replaced"))
    assert [m.key for m in store.manifests("embed")] == ["k2", "k1"]
    assert store.manifests("never") == []


def test_a_local_copy_has_the_content_wherever_the_store_is(store: Store) -> None:
    folder = store.folder("clip", "k1")
    folder.write_bytes("weights.bin", b"123")
    assert folder.local("weights.bin").read_bytes() == b"123"
    assert (folder.local() / "weights.bin").read_bytes() == b"123"


def test_a_store_that_can_be_written_passes_the_check(store: Store) -> None:
    store.check_writable()


def test_a_store_that_cannot_be_written_is_refused_with_its_place(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("no folder")
    with pytest.raises(StoreError, match=r"file/store cannot be written: .* --store"):
        Store(str(blocker / "store")).check_writable()


def test_a_damaged_manifest_counts_as_not_finished_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path))
    for key, content in (("k1", b"{"), ("k2", b"[]"), ("k3", b'{"stage": "embed"}')):
        store.folder("embed", key).write_bytes("manifest.json", content)
    store.folder("embed", "k4").write_bytes("a.bin", b"1")
    whole = store.commit(manifest("k4"))
    assert store.manifest("embed", "k1") is store.manifest("embed", "k1") is None
    assert store.manifests("embed") == [whole]
    assert len([r for r in caplog.records if "embed/k1" in r.message]) == 1
    assert "manifest cannot be read" in str(store.damage("embed", "k1"))
    assert store.damage("embed", "k4") is None
    repaired = store.commit(manifest("k1"))
    assert store.manifest("embed", "k1") == repaired
    assert store.damage("embed", "k1") is None


def test_publishing_leaves_no_temporary_name_behind(store: Store, tmp_path: Path) -> None:
    local = tmp_path / "local.bin"
    local.write_bytes(b"12")
    folder = Folder(store.folder("embed", "k1").url)
    folder.publish(local, "sub/a.bin")
    folder.publish(local, "sub/a.bin")
    assert folder.files() == {"sub/a.bin": 2}


def test_what_another_process_writes_after_a_listing_is_seen(store: Store) -> None:
    store.folder("embed", "k1").write_bytes("a.bin", b"1")
    assert store.manifests("embed") == []  # a listing that a file system may remember
    elsewhere = fsspec.core.url_to_fs(store.root, skip_instance_cache=True)[0]
    folder = store.folder("embed", "k2")
    elsewhere.makedirs(folder._path("").rstrip("/"), exist_ok=True)
    elsewhere.pipe_file(folder._path("b.bin"), b"12")
    assert folder.exists("b.bin")
    assert folder.files() == {"b.bin": 2}


def test_marks_of_shards_in_a_folder_keep_the_folder_in_their_names(store: Store) -> None:
    folder = store.folder("clip", "k1")
    folder.write_json(".done/split/00000.json", {"rows": 1})
    assert folder.marks(".done") == [".done/split/00000.json"]


def test_a_store_that_cannot_be_read_is_refused_with_its_address() -> None:
    store = Store("nosuch://bucket/store")
    with pytest.raises(StoreError, match=r"nosuch://bucket/store cannot be read: .*--store"):
        store.manifest("embed", "k1")
    with pytest.raises(StoreError, match=r"nosuch://bucket/store cannot be read: .*--store"):
        store.manifests("embed")


KILLED_WRITER = """
import os, sys
from pathlib import Path
from pipelines.core import folder
def die(*_): os.kill(os.getpid(), 9)
class Dying:
    def __init__(self, fs): self.fs = fs
    def __getattr__(self, name): return die if name == "mv" else getattr(self.fs, name)
original = folder.filesystem
folder.filesystem = lambda url: Dying(original(url))
folder.Folder(sys.argv[1]).write_bytes("a.bin", b"1234")
"""


def test_temporary_files_of_a_killed_writer_are_removed_and_those_of_a_living_one_stay(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path / "store"))
    shared, nested = tmp_path / "store/.tracking", tmp_path / "store/embed/k1"
    for place in (shared, nested):
        subprocess.run([sys.executable, "-c", KILLED_WRITER, str(place)], check=False)
        assert len(list(place.glob(".tmp-*"))) == 1
        (place / temporary_name()).write_bytes(b"mine, under way")
        (place / ".tmp-0123456789ab-1-young").write_bytes(b"another machine's")
        (place / ".tmp-0123456789ab-1-old").write_bytes(b"another machine's")
        os.utime(place / ".tmp-0123456789ab-1-old", (0, time.time() - 25 * 3600))
    store.remove_stale()
    Folder(str(nested)).remove_stale()
    for place in (shared, nested):
        left = sorted(p.read_bytes() for p in place.glob(".tmp-*"))
        assert left == [b"another machine's", b"mine, under way"]


def test_a_write_that_fails_says_where_and_why_and_leaves_no_half_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "stage"))
    (tmp_path / "stage/a.bin").mkdir(parents=True)
    (tmp_path / "stage/a.bin/b").write_bytes(b"")
    (tmp_path / "local").write_bytes(b"12")
    (tmp_path / "stage/file").write_bytes(b"")
    with pytest.raises(StoreWriteError, match=r"stage/file/a\.bin cannot be written: .*--store"):
        folder.publish(tmp_path / "local", "file/a.bin")
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_file_that_is_gone_is_both_a_store_error_and_a_missing_file(store: Store) -> None:
    folder = store.folder("embed", "k1")
    for read in (folder.read_json, folder.read_table):
        with pytest.raises(StoreError, match=r"k1/gone is not in the store") as error:
            read("gone")
        assert isinstance(error.value, FileNotFoundError)


def test_a_schema_is_checked_on_read_whichever_columns_are_read(store: Store) -> None:
    folder = store.folder("embed", "k1")
    vector = pa.list_(pa.float32(), 2)
    schema = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("v", vector)])
    table = pa.table({"a": [1, 2], "v": [[1.0, 2.0], [3.0, 4.0]]}, schema=schema)
    folder.write_table("00000.parquet", table)
    assert folder.read_table("00000.parquet", schema=schema).equals(table)
    assert folder.read_table("00000.parquet", ["a"], schema).column_names == ["a"]
    other = schema.set(1, pa.field("v", pa.list_(pa.float32(), 3)))
    with pytest.raises(SchemaError, match=r"00000\.parquet .*other type: v: .*\[2\] instead of"):
        folder.read_table("00000.parquet", ["a"], other)
    with pytest.raises(SchemaError, match="missing: b: string"):
        folder.read_table("00000.parquet", ["a"], schema.append(pa.field("b", pa.string())))


def test_artifacts_check_the_schema_of_the_shards_they_read(store: Store) -> None:
    folder = store.folder("select", "k1")
    folder.write_table("00000.parquet", pa.table({"key": ["a"]}))
    selection = SelectionShards(folder, {"00000": ShardEntry(1)}, {}, {"00000": 1}, {"00000": 0})
    with pytest.raises(SchemaError, match="missing: row: int32"):
        selection.read("00000", ["key"])


def test_what_grows_with_the_shards_is_not_read_for_a_list_of_results(store: Store) -> None:
    folder = store.folder("embed", "k1")
    folder.write_bytes("a.bin", b"1")
    whole = store.commit(manifest())
    folder.remove_file("contents.json")
    assert [header.created_at for header in store.headers("embed")] == [whole.created_at]
    assert store.manifest("embed", "k1") is None
    assert "it is gone" in str(store.damage("embed", "k1"))
    assert store.manifests("embed") == []


def test_results_made_within_a_second_are_listed_newest_first(store: Store) -> None:
    stages = [Count(1, rows, name="count") for rows in range(1, 7)]
    for stage in stages:
        made = SelectionShards(store.folder("count", stage.key), {}, {}, {}, {})
        store.commit(manifest_of(stage, made, {}, duration_s=0.1))
    assert [result.key for result in store.manifests("count")] == [s.key for s in stages[::-1]]
