"""Which shards may be deleted."""

import os
import time
from pathlib import Path

import pytest

from pipelines.cli.listing import prune_shards
from pipelines.core.filesystem import StoreError
from pipelines.core.lease import Leases
from pipelines.core.prune import delete_unreachable, find_unreachable
from pipelines.core.shard_records import Journal
from pipelines.core.store import Store
from tests.core.test_shard_records import shard
from tests.core.test_store import manifest

OLD_S = 2 * 24 * 3600.0


def make(store: Store, *stems: str) -> None:
    """One finished result, of all shards but the last."""
    records = [shard(store.folder("embed", "k1").shared(), stem) for stem in stems]
    shards = {file: size for record in records[:-1] for file, size in record.files.items()}
    committed = manifest()
    store.commit(type(committed)(**{**vars(committed), "shards": shards}))


def test_only_what_no_result_lists_is_found_and_deleted(store: Store) -> None:
    make(store, "a", "b", "c")
    store.folder("embed", "").write_json("log.retries.json", [])
    (found,) = find_unreachable(store, min_age_s=0)
    assert set(found.files) == {"c.parquet", "c.more.parquet"}
    assert delete_unreachable(store, found) == found.size > 0
    assert find_unreachable(store, min_age_s=0) == []
    whole = store.manifest("embed", "k1")
    assert whole is not None
    assert store.missing_outputs(whole) == []


def test_shards_of_an_interrupted_stage_stay(store: Store) -> None:
    make(store, "a", "b", "c")
    journal = Journal(store.folder("embed", "k2"))
    journal.add(shard(store.folder("embed", "k2").shared(), "c"))
    journal.write()
    assert find_unreachable(store, min_age_s=0) == []


def test_a_result_that_is_being_replaced_keeps_its_shards(store: Store) -> None:
    make(store, "a", "b", "c")
    store.folder("embed", "k1").move_to(store.folder("embed", "k1.replaced"))
    (found,) = find_unreachable(store, min_age_s=0)
    assert set(found.files) == {"c.parquet", "c.more.parquet"}


def test_nothing_of_a_running_stage_is_deleted(store: Store) -> None:
    make(store, "a", "b")
    (before,) = find_unreachable(store, min_age_s=0)
    assert before.holder == ""
    with Leases(store.root) as leases:
        assert leases.acquire("embed/k9") is None
        (found,) = find_unreachable(store, min_age_s=0)
        assert f"(process {os.getpid()})" in found.holder
        assert delete_unreachable(store, before) == 0
    assert delete_unreachable(store, before) > 0


def test_a_manifest_that_cannot_be_read_stops_it(store: Store) -> None:
    make(store, "a", "b")
    store.folder("embed", "k3").write_bytes("manifest.json", b"{")
    with pytest.raises(StoreError, match=r"k3: its manifest cannot be read .* delete this folder"):
        find_unreachable(store, min_age_s=0)


def test_young_shards_stay_and_old_ones_go_only_if_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path))
    make(store, "a", "b", "c")
    prune_shards(store, delete=True)
    assert "belongs to a result" in capsys.readouterr().out
    for path in (tmp_path / "embed/shards").iterdir():
        os.utime(path, (0, time.time() - OLD_S))
    prune_shards(store, delete=False)
    assert "embed  2" in capsys.readouterr().out
    assert (tmp_path / "embed/shards/c.parquet").exists()
    prune_shards(store, delete=True)
    assert "Deleted 0.0 MB" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "embed/shards").iterdir()}
    assert names == {f"{stem}{end}" for stem in "ab" for end in (".parquet", ".more.parquet")}
