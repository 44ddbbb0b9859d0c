"""One list in many formats and places: the same rows, and nothing is fetched twice."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.artifacts import ListShards, PairShards
from pipelines.core.errors import PipelineError
from pipelines.core.store import Store
from pipelines.data.list_errors import UrlListError
from pipelines.stages.url_list import UrlList
from tests.pipelines.counting import Site, download_stage, site, write_csv
from tests.pipelines.local import LocalContext, context, make
from tests.s3 import bucket

ROWS = 120
Rows = list[tuple[str, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Site]:
    with site() as running:
        running.broken = {5: 404, 77: 500}
        yield running


@pytest.fixture
def rows(server: Site) -> Rows:
    server.requests.clear()
    return [
        server.row(n, f'picture, "{n}"; über\n{n}' if n % 9 == 0 else None) for n in range(ROWS)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def write_gz(path: Path, rows: Rows) -> None:
    plain = path.with_name("plain.csv")
    write_csv(plain, rows)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def write_json(path: Path, rows: Rows) -> None:
    path.write_text("\n".join(json.dumps({"caption": c, "url": u}) for u, c in rows))


def write_parquet(path: Path, rows: Rows) -> None:
    urls, captions = zip(*rows, strict=True)
    pq.write_table(pa.table({"n": range(len(rows)), "caption": captions, "url": urls}), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "list.csv": write_csv,
    "list.csv.gz": write_gz,
    "list.jsonl": write_json,
    "list.parquet": write_parquet,
}


def write_parts(folder: Path, rows: Rows) -> None:
    """The rows as a folder of parts in several formats."""
    folder.mkdir()
    for number, (name, write) in enumerate(WRITERS.items()):
        write(folder / f"{number}-{name}", rows[number * ROWS // 4 : (number + 1) * ROWS // 4])


def list_stage(store: Store, path: Path) -> UrlList:
    stage = download_stage(path, store.root).urls
    assert isinstance(stage, UrlList)
    return stage


def slices(store: Store, path: Path) -> ListShards:
    return make(store, list_stage(store, path))


def download(store: Store, path: Path | str) -> PairShards:
    return make(store, download_stage(path, store.root))


def sorted_pairs(pairs: PairShards) -> list[dict[str, Any]]:
    tables = [pairs.read(name) for name in pairs.shards]
    return list(pa.concat_tables(tables).sort_by("key").to_pylist())


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_any_format_gives_the_slices_of_the_csv(
    tmp_path: Path, store: Store, rows: Rows, name: str
) -> None:
    for each in {"list.csv", name}:
        WRITERS[each](tmp_path / each, rows)
    from_csv, from_other = slices(store, tmp_path / "list.csv"), slices(store, tmp_path / name)
    assert len(from_csv.shards) >= 3
    assert {n: e.rows for n, e in from_csv.shards.items()} == {
        n: e.rows for n, e in from_other.shards.items()
    }


def test_a_change_of_format_or_place_fetches_nothing(
    tmp_path: Path, store: Store, server: Site, rows: Rows
) -> None:
    write_csv(tmp_path / "list.csv", rows)
    first = download(store, tmp_path / "list.csv")
    assert server.taken() == ROWS
    pairs = sorted_pairs(first)
    assert len(pairs) == ROWS - 2
    wanted = {(url, caption.replace("\n", " ")) for url, caption in rows}  # one line each
    assert {(p["url"], p["caption"]) for p in pairs} == wanted - {rows[5], rows[77]}
    for name in list(WRITERS)[1:]:
        WRITERS[name](tmp_path / name, rows)
        again = download(store, tmp_path / name)
        assert set(again.shards) == set(first.shards)
        assert {n: again.url(n) for n in again.shards} == {n: first.url(n) for n in first.shards}
    write_parts(tmp_path / "parts", rows)
    parts = download(store, tmp_path / "parts")
    assert parts.counts["rejected"] == {"http_404": 1, "http_500": 1}
    assert sorted_pairs(parts) == pairs
    with bucket() as url:
        upload(tmp_path / "list.parquet", f"{url}/list.parquet")
        upload(tmp_path / "parts", f"{url}/parts")
        assert download(store, f"{url}/list.parquet").shards == first.shards
        assert download(store, f"{url}/parts").shards == parts.shards
    assert server.taken() == 0


def upload(path: Path, url: str) -> None:
    fs, target = fsspec.core.url_to_fs(url)
    fs.put(str(path), target, recursive=path.is_dir())


def append_row(path: Path) -> None:
    with path.open("a") as out:
        out.write("http://127.0.0.1/late.jpg,late\n")


class Changing(LocalContext):
    """Changes the list when a worker is about to read it."""

    def map_shards(self, worker: Any, items: Any, **settings: Any) -> Any:
        for file in items.values():
            append_row(Path(file.url.removeprefix("file://")))
        return super().map_shards(worker, items, **settings)


def test_a_list_that_changes_while_it_is_read_commits_nothing(
    tmp_path: Path, store: Store, rows: Rows
) -> None:
    path = tmp_path / "list.csv"
    write_csv(path, rows)
    stage = list_stage(store, path)
    changing = context(store, stage, kind=Changing)
    with pytest.raises(UrlListError, match=r"list\.csv changed while it was read.*Run again when"):
        stage.run(changing)
    assert store.manifests("list") == []
    assert slices(store, path).total_rows == ROWS + 1


def test_a_list_that_changes_after_its_key_was_computed_commits_nothing(
    tmp_path: Path, store: Store, rows: Rows
) -> None:
    path = tmp_path / "list.csv"
    write_csv(path, rows)
    planned = list_stage(store, path)
    assert planned.key
    append_row(path)
    with pytest.raises(PipelineError, match=r"list\.csv has changed since .* Run again"):
        make(store, planned)
    assert store.manifests("list") == []
    assert slices(store, path).total_rows == ROWS + 1
