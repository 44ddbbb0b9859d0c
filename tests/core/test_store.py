"""The store, on a local disk, in memory and on a real S3 server."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from pipelines.core.filesystem import StoreError
from pipelines.core.store import Folder, Manifest, Store


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket/store"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    if request.param == "memory":
        return Store(f"memory://{tmp_path.name}")
    return Store(request.getfixturevalue("s3") + f"/{tmp_path.name}")


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
