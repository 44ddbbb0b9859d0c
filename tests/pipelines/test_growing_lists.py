"""A list that grows, changes and is retried: what the server is asked for, and what comes out."""

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.artifacts import PairShards
from pipelines.core.errors import PipelineError
from pipelines.core.store import Store
from pipelines.core.tables import read_table
from pipelines.data.earlier import Retry
from pipelines.data.retries import add_retry
from tests.pipelines.counting import Site, download_stage, site, write_csv
from tests.pipelines.local import make

ROWS = 300


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def csv_file(tmp_path: Path, server: Site) -> Path:
    path = tmp_path / "list.csv"
    write_csv(path, map(server.row, range(ROWS)))
    return path


def download(store: Store, path: Path, force: bool = False, **changes: object) -> PairShards:
    return make(store, download_stage(path, store.root, **changes), force=force)


def all_pairs(pairs: PairShards) -> pa.Table:
    return pa.concat_tables(pairs.read(name) for name in pairs.shards).sort_by("key")


def outcomes(pairs: PairShards) -> list[dict[str, object]]:
    tables = [read_table(pairs.outcomes_url(name)) for name in pairs.shards]
    return pa.concat_tables(tables).to_pylist()


def test_an_appended_row_costs_one_request(store: Store, csv_file: Path, server: Site) -> None:
    first = download(store, csv_file)
    assert server.taken() == ROWS
    write_csv(csv_file, map(server.row, range(ROWS + 1)))
    second = download(store, csv_file)
    assert server.taken() == 1
    assert second.total_rows == ROWS + 1
    assert len(set(second.shards) - set(first.shards)) <= 2
    assert all_pairs(first).to_pylist() == [
        row for row in all_pairs(second).to_pylist() if row["url"] != server.row(ROWS)[0]
    ]


def test_an_edit_in_the_middle_disturbs_only_the_slices_around_it(
    store: Store, csv_file: Path, server: Site
) -> None:
    first = download(store, csv_file)
    server.taken()
    rows = [server.row(number) for number in range(ROWS)]
    rows[150] = server.row(150, "another caption")
    del rows[40]
    rows.insert(220, server.row(1000))
    write_csv(csv_file, rows)
    second = download(store, csv_file)
    assert server.taken() == 1
    assert len(set(second.shards) - set(first.shards)) < len(first.shards) / 2
    assert second.total_rows == ROWS


@pytest.mark.parametrize("rows_per_shard", [7, 64, 1000])
def test_cutting_the_list_anew_fetches_nothing(
    store: Store, csv_file: Path, server: Site, rows_per_shard: int
) -> None:
    first = download(store, csv_file)
    server.taken()
    second = download(store, csv_file, rows_per_shard=rows_per_shard)
    assert server.taken() == 0
    assert set(second.shards) != set(first.shards)
    assert all_pairs(second).equals(all_pairs(first))


def test_reordered_files_and_other_settings_of_patience_fetch_nothing(
    tmp_path: Path, store: Store, server: Site
) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    write_csv(folder / "a.csv", map(server.row, range(100)))
    write_csv(folder / "b.csv", map(server.row, range(100, 200)))
    first = download(store, folder)
    assert server.taken() == 200
    (folder / "a.csv").rename(folder / "c.csv")
    patient = {"connections": 3, "retries": 2, "timeout_s": 20.0, "min_success_rate": 0.5}
    stage = download_stage(folder, store.root, **patient)
    assert make(store, stage) == first
    assert server.taken() == 0


def test_a_list_in_random_order_fetches_nothing(store: Store, csv_file: Path, server: Site) -> None:
    first = download(store, csv_file)
    server.taken()
    shuffled = [server.row(number) for number in range(ROWS)]
    random.Random(1).shuffle(shuffled)
    write_csv(csv_file, shuffled)
    second = download(store, csv_file)
    assert server.taken() == 0
    assert all_pairs(second).equals(all_pairs(first))


def test_only_a_retry_fetches_a_rejected_row_again(
    store: Store, csv_file: Path, server: Site
) -> None:
    server.broken = {**dict.fromkeys(range(0, 30), 500), **dict.fromkeys(range(30, 40), 404)}
    first = download(store, csv_file)
    assert server.taken() == ROWS
    assert first.counts["rejected"] == {"http_500": 30, "http_404": 10}
    write_csv(csv_file, map(server.row, range(ROWS + 10)))
    server.broken = {}
    grown = download(store, csv_file)
    assert server.taken() == 10
    assert grown.counts["rejected"] == {"http_500": 30, "http_404": 10}

    stage, before = download_stage(csv_file, store.root), download_stage(csv_file, store.root).key
    failed = {
        name
        for name in grown.shards
        if any(o["reason"] == "http_500" for o in read_table(grown.outcomes_url(name)).to_pylist())
    }
    add_retry(stage.log_folder, stage.log_name, Retry(reasons=("http_500",)), sorted(failed))
    retried = download(store, csv_file)
    assert server.taken() == 30
    assert retried.counts["rejected"] == {"http_404": 10}
    assert retried.total_rows == ROWS
    changed = {n for n in grown.shards if grown.shards[n] != retried.shards[n]}
    assert changed == failed
    assert download_stage(csv_file, store.root).key != before

    write_csv(csv_file, map(server.row, range(ROWS + 11)))
    assert download(store, csv_file).total_rows == ROWS + 1
    assert server.taken() == 1


def test_every_row_has_one_outcome(store: Store, csv_file: Path, server: Site) -> None:
    server.broken = dict.fromkeys(range(5), 404)
    rows = [server.row(number) for number in range(50)]
    write_csv(csv_file, [*rows, *rows[:3], server.row(7, "another caption of the same")])
    pairs = download(store, csv_file, rows_per_shard=1000)
    assert server.taken() == 50
    found = outcomes(pairs)
    assert len(found) == 54 == pairs.counts["listed"]
    reasons = [o["reason"] for o in found]
    assert pairs.counts["rejected"] == {r: reasons.count(r) for r in set(reasons) if r is not None}
    by_key = {row["key"]: row["url"] for row in all_pairs(pairs).to_pylist()}
    assert {o["key"]: o["url"] for o in found if o["reason"] is None} == by_key


def test_a_lowered_floor_fetches_nothing_again(store: Store, csv_file: Path, server: Site) -> None:
    server.broken = dict.fromkeys(range(100), 404)
    with pytest.raises(
        PipelineError, match=r"Only 200 of 300 rows.*unclip retry CONFIG --reason http_404"
    ):
        download(store, csv_file, min_success_rate=0.9)
    assert server.taken() == ROWS
    assert download(store, csv_file, min_success_rate=0.6).total_rows == 200
    assert server.taken() == 0


def test_force_fetches_everything_again_and_keeps_what_was_there(
    store: Store, csv_file: Path, server: Site
) -> None:
    first = download(store, csv_file)
    before = {name: Path(first.url(name)).read_bytes() for name in first.shards}
    server.taken()
    second = download(store, csv_file, force=True)
    assert server.taken() == ROWS
    assert all(first.url(name) != second.url(name) for name in first.shards)
    assert {name: Path(first.url(name)).read_bytes() for name in first.shards} == before


def test_a_damaged_shard_costs_its_own_rows_only(
    store: Store, csv_file: Path, server: Site
) -> None:
    pairs = download(store, csv_file)
    server.taken()
    name = sorted(pairs.shards)[0]
    Path(pairs.url(name)).write_bytes(b"short")
    stage = download_stage(csv_file, store.root)
    manifest = store.manifest("download", stage.key)
    assert manifest is not None
    assert store.missing_outputs(manifest) == [Path(pairs.url(name)).name]
    Path(pairs.folder.file("manifest.json")).unlink()
    assert all_pairs(download(store, csv_file)).equals(all_pairs(pairs))
    assert server.taken() == pairs.shards[name].rows


def test_a_damaged_table_of_outcomes_costs_only_what_it_knew(
    store: Store, csv_file: Path, server: Site
) -> None:
    pairs = download(store, csv_file)
    name = sorted(pairs.shards)[0]
    damaged = Path(pairs.outcomes_url(name))
    damaged.write_bytes(b"PAR1" + bytes(damaged.stat().st_size - 4))
    lost = {row["url"] for row in read_table(pairs.url(name), ["url"]).to_pylist()}
    rows = [server.row(number, "another caption") for number in range(ROWS)]
    write_csv(csv_file, rows)
    server.taken()
    download(store, csv_file)
    assert server.taken() == len(lost)


def test_an_edit_after_force_or_a_retry_copies_the_last_outcome(
    store: Store, csv_file: Path, server: Site
) -> None:
    download(store, csv_file)
    server.broken = {7: 404}
    forced = download(store, csv_file, force=True)
    assert forced.counts["rejected"] == {"http_404": 1}
    server.taken()
    rows = [server.row(number) for number in range(ROWS)]
    rows[7] = server.row(7, "another caption")
    write_csv(csv_file, rows)
    edited = download(store, csv_file)
    assert server.taken() == 0
    assert edited.counts["rejected"] == {"http_404": 1}


def test_a_repeated_row_is_counted_whether_its_url_is_known_or_not(
    store: Store, csv_file: Path, server: Site
) -> None:
    rows = [server.row(number) for number in range(30)]
    write_csv(csv_file, rows)
    download(store, csv_file, rows_per_shard=1000)
    write_csv(csv_file, [*rows, rows[3], server.row(30)])
    server.taken()
    pairs = download(store, csv_file, rows_per_shard=1000)
    assert server.taken() == 1
    assert (pairs.total_rows, pairs.counts["rejected"]) == (31, {"duplicate_row": 1})
