"""A list is read correctly, or it ends in one paragraph that names the file."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.list_errors import UrlListError
from tests.pipelines.hostile_lists import CSV, HOSTILE, MANY, ROW
from tests.pipelines.listed import read, source


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_list_is_read_or_refused_in_one_paragraph(tmp_path: Path, name: str) -> None:
    case = HOSTILE[name]
    path = case.write(tmp_path)
    if case.captions is not None:
        assert read(path, **case.settings)["caption"].to_pylist() == case.captions
        return
    with pytest.raises(UrlListError) as error:
        read(path, **case.settings)
    message = str(error.value)
    assert re.search(case.error, message), message
    assert str(path) in message
    assert message.isprintable()
    assert message.endswith(".")
    assert len(message) < 700


def append(path: Path) -> None:
    with path.open("a") as out:
        out.write(ROW)


def half_a_line(path: Path) -> None:
    with path.open("a") as out:
        out.write('http://a/2,"half')


def replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(MANY.replace(b"caption 4\n", b"caption 5\n"))
    path.with_suffix(".new").rename(path)


@pytest.mark.parametrize("change", [append, half_a_line, replace, Path.unlink])
def test_a_list_that_changes_while_it_is_read_is_refused_at_its_end(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(MANY)
    batches = source(path).all_batches()
    next(batches)
    change(path)
    with pytest.raises(UrlListError, match=r"changed while it was read.*Run again when"):
        list(batches)


@pytest.mark.parametrize("seed", range(5))
def test_a_parquet_list_with_any_bytes_changed_is_read_or_refused(
    tmp_path: Path, seed: int
) -> None:
    # One wrong byte in the footer made pyarrow abort the process when it was asked for sizes.
    chance = random.Random(seed)
    texts = pa.array([f"http://a/{i}" for i in range(300)])
    pq.write_table(pa.table({"url": texts, "caption": texts}), tmp_path / "x.parquet")
    good = (tmp_path / "x.parquet").read_bytes()
    for _ in range(40):
        content = bytearray(good)
        for _ in range(chance.choice([1, 3, 20])):
            content[chance.randrange(len(good))] = chance.randrange(256)
        (tmp_path / "x.parquet").write_bytes(content)
        said = ""
        try:
            rows = read(tmp_path / "x.parquet").num_rows
        except UrlListError as error:
            rows, said = 0, str(error)
        assert rows or said
        assert said.isprintable()


def test_a_list_that_changed_since_its_digest_was_taken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(CSV)
    files = source(path)
    (file,) = files.files()
    append(path)
    with pytest.raises(UrlListError, match=r"changed while it was read \(from size 27, mtime"):
        list(files.batches(file))


def test_a_reader_that_stops_early_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(MANY)
    pq.write_table(
        pa.table({"url": ["a"] * 20_000, "caption": ["b"] * 20_000}), tmp_path / "x.parquet"
    )
    for name in ("x.csv", "x.parquet"):
        path = str(tmp_path / name)
        batches = source(path).all_batches()
        assert next(batches).num_rows == 8192
        assert path in open_files()
        batches.close()
        assert path not in open_files()


def open_files() -> list[str]:
    return [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]
