import gzip
import io
import json
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipelines.data.list_errors import UrlListError
from tests.pipelines.listed import read, source

ROWS = {"link": ["http://a/1", "http://a/2"], "text": ["7", 'a "b", c'], "n": [1, 2]}
COLUMNS = {"url_column": "link", "caption_column": "text"}


def write_list(path: Path) -> None:
    table = pa.table(ROWS)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix in {".csv", ".gz"}:
        text = io.BytesIO()
        pa.csv.write_csv(table, text)
        path.write_bytes(
            gzip.compress(text.getvalue()) if path.suffix == ".gz" else text.getvalue()
        )
    elif path.suffix == ".tsv":
        pa.csv.write_csv(table, path, pa.csv.WriteOptions(delimiter="\t"))
    else:
        path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.csv.gz", "x.tsv", "x.jsonl", "x.json"])
def test_every_format_gives_the_same_list(tmp_path, name):
    write_list(tmp_path / name)
    table = read(tmp_path / name, **COLUMNS)
    assert table["url"].to_pylist() == ROWS["link"]
    assert table["caption"].to_pylist() == ROWS["text"]


def test_a_folder_is_the_lists_in_it_by_name(tmp_path):
    write_list(tmp_path / "b.csv")
    write_list(tmp_path / "a.parquet")
    (tmp_path / "_SUCCESS").touch()
    assert read(tmp_path, **COLUMNS)["url"].to_pylist() == ROWS["link"] * 2


def test_unfinished_output_of_other_programs_is_no_list(tmp_path: Path) -> None:
    write_list(tmp_path / "a.csv")
    for name in ("_temporary/0/b.csv", ".hidden/c.csv", "._a.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half a list")
    assert read(tmp_path, **COLUMNS)["url"].to_pylist() == ROWS["link"]


def test_a_list_is_read_from_any_file_system() -> None:
    fs = fsspec.filesystem("memory")
    with fs.open("/lists/x.parquet", "wb") as out:
        pq.write_table(pa.table(ROWS), out)
    assert read("memory://lists/x.parquet", **COLUMNS).num_rows == 2


@pytest.mark.parametrize(("inside", "rows"), [("lists/a.csv", 2), ("lists", 4)])
def test_a_list_is_read_from_inside_an_archive(tmp_path: Path, inside: str, rows: int) -> None:
    write_list(tmp_path / "a.csv")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.csv", "b.csv"):
            archive.write(tmp_path / "a.csv", f"lists/{name}")
    assert read(f"zip://{inside}::{tmp_path}/x.zip", **COLUMNS).num_rows == rows


def test_missing_text_reads_as_empty(tmp_path):
    pq.write_table(pa.table({"url": ["a", None], "caption": [None, "b"]}), tmp_path / "x.parquet")
    table = read(tmp_path / "x.parquet").select(["url", "caption"])
    assert table.to_pydict() == {"url": ["a", ""], "caption": ["", "b"]}


def test_lists_that_cannot_be_used_are_errors_that_say_what_the_file_has(tmp_path):
    write_list(tmp_path / "x.parquet")
    write_list(tmp_path / "x.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    (tmp_path / "x.xlsx").touch()
    pq.write_table(pa.table({"url": [["a"]], "caption": ["b"]}), tmp_path / "nested.parquet")
    pq.write_table(pa.table({"url": ["a"], "caption": ["b"]}).slice(0, 0), tmp_path / "e.parquet")
    for name, message in [
        ("none.parquet", "There is no URL list"),
        ("x.parquet", "no column 'url', 'caption'; it has 'link', 'text', 'n'"),
        ("x.jsonl", "no column 'url', 'caption'; it has 'link', 'text', 'n'"),
        ("broken.parquet", "not readable as Parquet"),
        ("x.xlsx", "suffix '.xlsx'"),
        ("nested.parquet", "not text"),
        ("e.parquet", "no rows"),
    ]:
        with pytest.raises(UrlListError, match=message):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.csv.gz", "x.tsv"])
def test_the_beginning_of_a_list_shows_which_columns_are_missing(tmp_path, name):
    write_list(tmp_path / name)
    source(tmp_path, **COLUMNS).check()
    with pytest.raises(UrlListError, match="no column 'url'; it has 'link', 'text', 'n'"):
        source(tmp_path, caption_column="text").check()


def test_the_beginning_of_a_file_shows_that_it_is_not_a_list(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    (tmp_path / "half.csv.gz").write_bytes(gzip.compress(b"link,text\n" * 99)[:20])
    (tmp_path / "empty.csv").touch()
    for name, problem in [
        ("broken.parquet", "is not readable as Parquet"),
        ("half.csv.gz", "is not readable as CSV"),
        ("empty.csv", "is empty"),
    ]:
        with pytest.raises(UrlListError, match=rf"{name} {problem}"):
            source(tmp_path / name, **COLUMNS).check()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "link,text\n"),
        ("x.csv", "link,text\n\n \n"),
        ("x.csv", '"link","text"'),
        ("x.tsv", "link\ttext\n"),
        ("x.jsonl", "\n"),
    ],
)
def test_a_list_without_rows_is_refused_from_its_beginning(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UrlListError, match=r"has no rows\. Give"):
        source(tmp_path / name, **COLUMNS).check()
    pq.write_table(pa.table(ROWS).slice(0, 0), tmp_path / "y.parquet")
    with pytest.raises(UrlListError, match="has no rows"):
        source(tmp_path / "y.parquet", **COLUMNS).check()
    write_list(tmp_path / "z.csv")  # one file with rows is enough for a folder
    source(tmp_path, **COLUMNS).check()


def test_a_header_is_read_with_its_quotes_line_breaks_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes('\ufeff"link","a\r\nb",text\r\n"http://a/1",1,"x\r\ny"\r\n'.encode())
    assert read(path, **COLUMNS)["caption"].to_pylist() == ["x y"]
    with pytest.raises(UrlListError, match="no column 'b'"):
        source(path, url_column="link", caption_column="b").check()


CHECK = """
import io, sys, time
import fsspec
from fsspec.implementations.local import LocalFileSystem
from tests.pipelines.listed import source


class SlowFile(io.FileIO):
    def read(self, size=-1):
        content = super().read(size)
        time.sleep(0.2)  # as a bucket that is far away
        return content


class SlowFiles(LocalFileSystem):
    protocol = "slow"

    def _open(self, path, mode="rb", **_):
        return SlowFile(path, mode)


fsspec.register_implementation("slow", SlowFiles)
source("slow://" + sys.argv[1], url_column="link", caption_column="text").check()
"""


def test_a_process_that_checked_a_list_exits_normally(tmp_path: Path) -> None:
    # Arrow's streaming reader still read ahead in a thread at exit, and aborted one in four.
    with (tmp_path / "x.csv").open("w") as out:
        out.write("link,text,n\n")
        out.writelines(f"http://a/{i},{'x' * 200},3\n" for i in range(20_000))
    for _ in range(10):
        done = subprocess.run(
            [sys.executable, "-c", CHECK, str(tmp_path / "x.csv")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_check_reads_the_beginning_and_leaves_no_reader_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("link,text\n" + "http://a/1,x\n" * 1_000_000)
    reads: list[int] = []

    class CountedFile(io.FileIO):
        def read(self, size: int | None = -1) -> bytes | None:  # type: ignore[override]
            reads.append(-1 if size is None else size)
            time.sleep(0.05)
            return super().read(size)

    monkeypatch.setattr(LocalFileSystem, "_open", lambda self, path, *_, **__: CountedFile(path))
    source(path, **COLUMNS).check()
    time.sleep(0.3)
    assert len(reads) == 1
    assert 0 < reads[0] < 100_000


def test_a_json_list_may_name_a_column_in_a_later_row_alone(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"url": "a"}\n{"url": "b", "caption": "c"}\n')
    assert read(tmp_path / "x.jsonl")["caption"].to_pylist() == ["", "c"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_digest_of_a_list_follows_its_bytes_and_not_its_place(
    tmp_path: Path, cache: Path
) -> None:
    for name in ("a.csv", "b.csv"):
        write_list(tmp_path / name)
    first = source(tmp_path / "a.csv").digest()
    assert first == source(tmp_path / "b.csv").digest()
    with (tmp_path / "b.csv").open("a") as out:
        out.write("http://a/3,x,3\n")
    assert first != source(tmp_path / "b.csv").digest()
    assert first != source(tmp_path).digest()
    assert cache.is_dir()


def test_the_digest_of_a_folder_does_not_depend_on_the_names_of_its_files(
    tmp_path: Path, cache: Path
) -> None:
    for folder, names in {"x": ("1.csv", "2.jsonl"), "y": ("2.csv", "1.jsonl")}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            write_list(tmp_path / folder / name)
    first, second = source(tmp_path / "x"), source(tmp_path / "y")
    assert first.files() == pickle.loads(pickle.dumps(first.files()))
    assert [f.digest for f in first.files()] == [f.digest for f in second.files()][::-1]
    assert first.digest() == second.digest()


def test_a_list_that_stays_the_same_is_hashed_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_list(tmp_path / "a.csv")
    first = source(tmp_path / "a.csv").digest()
    opened: list[str] = []
    monkeypatch.setattr(LocalFileSystem, "_open", lambda self, path, *_, **__: opened.append(path))
    assert source(tmp_path / "a.csv").digest() == first
    assert opened == []


@pytest.mark.parametrize("path", ["s3://nobody-here/list.csv", "no-such-protocol://list.csv"])
def test_a_list_whose_file_system_cannot_be_reached_is_refused_in_one_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(UrlListError, match=r"cannot be reached: .*credentials in the environment"):
        source(path).digest()
