"""Lists as typed batches of bounded size: captions, further columns, hashes, splits."""

import csv
import gzip
import hashlib
import io
import json
import pickle
import unicodedata
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config.files import ConfigFileError
from pipelines.config.load import load_config
from pipelines.data.list_columns import MAX_BYTES, MAX_ROWS, ListColumns, typed_batches
from pipelines.data.list_errors import UrlListError
from pipelines.data.sources import SourceConfig, list_schema
from tests.pipelines.listed import read, source

Rows = Sequence[dict[str, Any]]
SPLITS = {"split_column": "split", "held_out_splits": ("val", "test")}


def delimited(rows: Rows, delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), out, row_group_size=3)
    return out.getvalue()


def json_lines(rows: Rows) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=len(rows) % 2 == 0) for row in rows).encode()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "csv": lambda rows: delimited(rows, ","),
    "tsv": lambda rows: delimited(rows, "\t"),
    "jsonl": json_lines,
    "parquet": parquet,
}


def write(folder: Path, rows: Rows) -> list[Path]:
    """The rows as one file of each format, with and without compression, and as a mixed folder."""
    paths = [folder / f"x.{suffix}" for suffix in WRITERS]
    for path, writer in zip(list(paths), WRITERS.values(), strict=True):
        path.write_bytes(writer(rows))
        if path.suffix != ".parquet":
            packed = path.with_name(f"{path.name}.gz")
            packed.write_bytes(gzip.compress(path.read_bytes()))
            paths.append(packed)
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    for number, (suffix, writer) in enumerate(WRITERS.items()):
        content = writer(rows[number :: len(WRITERS)] or rows[:1])
        (parts / f"{number}.{suffix}").write_bytes(content)
    return [*paths, parts]


def row_of(url: str, caption: str, score: float | None, license_: str) -> dict[str, Any]:
    return {"n": "7", "score": score, "url": url, "caption": caption, "license": license_}


def one_line(text: str) -> str:
    """The text with a space for each run of control characters, as captions are read."""
    runs = groupby(text, key=lambda character: unicodedata.category(character) == "Cc")
    return "".join(" " if is_control else "".join(run) for is_control, run in runs)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ['a "b", c', "\r\n", "\n\n,", "\t", '"', "👩‍🚀 שלום \u202e", "\u2028\x85\x0b", "ü" * 200_000]
)
SCORES = st.none() | st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(st.builds(row_of, st.text("abc/:", min_size=1), TEXT, SCORES, TEXT), min_size=4)
EXTRA = {"columns": {"score": "number", "license": "text"}}


@settings(max_examples=25, deadline=None)
@given(rows=ROWS)
def test_the_same_rows_come_out_of_every_format(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    names = ["url", "caption", "score", "license"]
    wanted = [
        {n: row[n] for n in names}
        | {"caption": one_line(row["caption"]), "license": row["license"] or None}
        for row in rows
    ]
    for path in write(folder, rows):
        found = read(path, **EXTRA).select(names).to_pylist()
        if path.name == "parts":
            found = sorted(found, key=repr)
            wanted = sorted(wanted, key=repr)
        assert found == wanted, path.name


def test_every_batch_has_the_schema_of_the_configuration(tmp_path: Path) -> None:
    row = {**row_of("a", "b", 1.5, "c"), "split": "val", "md5": "0" * 32}
    files = [p for p in write(tmp_path, [row] * 5) if p.is_file()]
    for path in files:
        table = read(path, **EXTRA, **SPLITS, hash_column="md5")
        assert table.schema == list_schema(source(path, **EXTRA).config)
        assert table.to_pylist()[4] == {
            **{"url": "a", "caption": "b", "hash": "0" * 32, "held_out": True},
            **{"score": 1.5, "license": "c"},
        }


def test_what_a_list_does_not_say_is_null(tmp_path: Path) -> None:
    table = read(*write(tmp_path, [{"url": "a", "caption": "b"}])[:1])
    assert table.to_pylist() == [{"url": "a", "caption": "b", "hash": None, "held_out": None}]
    assert [table.schema.field(n).nullable for n in ("url", "caption", "hash")] == [0, 0, 1]


def test_splits_decide_what_is_held_out_and_a_blank_one_does_not() -> None:
    columns = ListColumns("url", ("caption",), split="split", held_out_splits=("val", "test"))
    splits = ["train", "val", " test ", "", None, "  ", "Val"]
    table = {"url": splits, "caption": splits, "split": splits}
    (batch,) = typed_batches([table], columns)
    assert batch["held_out"].to_pylist() == [False, True, True, None, None, None, False]


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256", "sha512"])
def test_hashes_are_hexadecimal_digests_in_lower_case(name: str) -> None:
    digest = hashlib.new(name, b"x").hexdigest()
    columns = ListColumns("url", ("url",), hash="h")
    (batch,) = typed_batches([{"url": ["a"] * 3, "h": [digest.upper(), "", None]}], columns)
    assert batch["hash"].to_pylist() == [digest, None, None]


def test_numbers_may_be_missing_or_written_as_text() -> None:
    columns = ListColumns("url", ("url",), extra={"n": "number"})
    for values, expected in [
        (["1", " 2.5 ", "", None, "-1e3", "nan"], [1, 2.5, None, None, -1000, None]),
        ([1, None, 2**60], [1, None, 2**60]),
        ([0.5, float("nan"), float("inf")], [0.5, None, float("inf")]),
        ([None, None], [None, None]),
    ]:
        table = {"url": ["a"] * len(values), "n": values}
        (batch,) = typed_batches([table], columns)
        assert batch["n"].to_pylist() == expected


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), "string")]
)
def test_text_may_have_any_type_of_text(kind: pa.DataType) -> None:
    table = pa.table({"url": pa.array(["a", None], pa.string()).cast(kind)})
    (batch,) = typed_batches([table], ListColumns("url", ("url",)))
    assert batch["caption"].to_pylist() == ["a", ""]


SEVERAL = {"url": ["a", "b", "c"], "alt": ["1", " ", None], "title": ["2", "3", ""]}
LISTED = {"url": ["a", "b", "c"], "all": [["1", "2"], ["", None, "3"], None]}


def test_several_captions_give_one_row_each_and_one_row_where_there_is_none() -> None:
    expected = [("a", "1"), ("a", "2"), ("b", "3"), ("c", "")]
    for table, names in [(SEVERAL, ("alt", "title")), (LISTED, ("all",))]:
        (batch,) = typed_batches([table], ListColumns("url", names))
        pairs = zip(batch["url"].to_pylist(), batch["caption"].to_pylist(), strict=True)
        assert list(pairs) == expected


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2)]
)
def test_captions_of_a_slice_belong_to_their_rows(kind: pa.DataType) -> None:
    captions = pa.array([["1", "2"], None, ["3", ""], ["4", "5"]], kind)
    table = pa.table({"url": list("abcd"), "all": captions}).slice(1)
    (batch,) = typed_batches([table], ListColumns("url", ("all",)))
    assert batch.select(["url", "caption"]).to_pydict() == {
        "url": ["b", "c", "d", "d"],
        "caption": ["", "3", "4", "5"],
    }


def test_several_captions_are_the_same_in_json_and_parquet(tmp_path: Path) -> None:
    rows = [{"url": u, "all": c} for u, c in zip(LISTED["url"], LISTED["all"], strict=True)]
    (tmp_path / "x.jsonl").write_bytes(json_lines([*rows, {"url": "d", "all": "4"}]))
    (tmp_path / "x.parquet").write_bytes(parquet([*rows, {"url": "d", "all": ["4"]}]))
    found = [read(tmp_path / name, caption_column="all") for name in ("x.jsonl", "x.parquet")]
    assert found[0].equals(found[1])
    assert found[0]["caption"].to_pylist() == ["1", "2", "3", "", "4"]


def test_a_fault_in_one_of_several_captions_names_its_row() -> None:
    captions = pa.array([[b"1", b"2"], [b"3", b"\xff"]])
    with pytest.raises(Exception, match="not UTF-8") as error:
        list(typed_batches([{"url": ["a", "b"], "all": captions}], ListColumns("url", ("all",))))
    assert error.value.place == "row 2"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "lengths", [[10] * 100_000, [MAX_BYTES // 5] * 40, [10, MAX_BYTES - 100] * 3, [1] * MAX_ROWS]
)
def test_batches_are_bounded_and_hold_no_more_than_their_rows(lengths: list[int]) -> None:
    table = {"url": [str(n) for n in range(len(lengths))], "caption": ["x" * n for n in lengths]}
    batches = list(typed_batches([table], ListColumns("url", ("caption",))))
    assert [u for batch in batches for u in batch["url"].to_pylist()] == table["url"]
    for batch in batches:
        assert batch.num_rows <= MAX_ROWS
        assert batch.nbytes <= MAX_BYTES + 100_000  # the offsets of strings
        assert len(pickle.dumps(batch)) <= batch.nbytes + 10_000


def test_a_long_url_of_many_captions_is_not_multiplied_in_memory() -> None:
    table = {"url": ["u" * 1_000_000], "all": [[f"caption {n}" for n in range(200)]]}
    columns = ListColumns("url", ("all",))
    sizes = [batch.nbytes for batch in typed_batches([table], columns)]
    assert len(sizes) > 10
    assert max(sizes) <= MAX_BYTES + 1_000


def test_a_list_in_one_large_row_group_is_read_in_bounded_batches(tmp_path: Path) -> None:
    long = ["x" * 100_000 + str(n) for n in range(400)]
    pq.write_table(pa.table({"url": long, "caption": long}), tmp_path / "x.parquet")
    files = source(tmp_path / "x.parquet")
    (file,) = files.files()
    assert max(batch.nbytes for batch in files.tables(file)) <= MAX_BYTES + 100_000
    assert sum(batch.num_rows for batch in files.batches(file)) == 400


def test_rows_are_counted_across_tables_and_row_groups(tmp_path: Path) -> None:
    numbers = [str(n) for n in range(20_000)]
    numbers[12_345] = "many"
    table = pa.table({"url": numbers, "caption": numbers, "n": numbers})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=5000)
    with pytest.raises(UrlListError, match=r"^Row 12,346 of the URL list .*'many'"):
        read(tmp_path / "x.parquet", columns={"n": "number"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {"phash": "text"}}, r"columns has phash, which every pair has already"),
        ({"split_column": "s"}, r"split_column=s and held_out_splits=\[\] need each other"),
        ({"held_out_splits": ("val",)}, r"split_column=None and .*'val'.* need each other"),
        ({"caption_column": ()}, r"caption_column is empty"),
        ({"delimiter": "::"}, r"delimiter='::' must be one character"),
        ({"encoding": "hex"}, r"encoding='hex' is no text encoding"),
        ({"encoding": "utf8mb4"}, r"encoding='utf8mb4' is no text encoding"),
    ],
)
def test_contradictions_in_the_configuration_are_refused(change: Any, message: str) -> None:
    settings = {"url_column": "url", "caption_column": "caption", "rows_per_shard": 1, **change}
    with pytest.raises(Exception, match=message):
        SourceConfig(urls="x.csv", **settings)


def test_columns_are_settings_of_the_yaml(tmp_path: Path) -> None:
    config = load_config(
        "demo",
        [
            "source.urls=x.csv",
            "source.caption_column=[alt, title]",
            "source.columns={aesthetic: number}",
            "source.split_column=split",
            "source.held_out_splits=[val]",
        ],
    ).source
    assert config.caption_column == ("alt", "title")
    assert config.columns == {"aesthetic": "number"}
    assert list_schema(config).names == ["url", "caption", "hash", "held_out", "aesthetic"]
    for setting, message in [
        ("source.columns={a: date}", r"source\.columns\.a is 'date'"),
        ("source.columns={url: text}", r"columns has url"),
        ("source.caption_column=7", r"source\.caption_column is 7"),
    ]:
        with pytest.raises(ConfigFileError, match=message):
            load_config("demo", [setting])
