"""Lists that people really have, and lists that someone made to do harm, as code that writes them.

`HOSTILE` maps a name to a case: what the file holds, and what reading it gives, which is either the
captions of all rows or a pattern of the error.
"""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Make = bytes | str | Callable[[Path], object]
ROW = "http://a/1,one\n"
CSV = "url,caption\n" + ROW
MANY = (
    "url,caption\n" + "".join(f"http://a/{i},caption {i * i}\n" for i in range(20_000))
).encode()
LONG = "x" * 50_000_000
SURROGATE = '{"url": "a", "caption": "one"}\n{"url": "b", "caption": "\\ud83d"}\n'


@dataclass(frozen=True)
class Case:
    """A file, how it is read, and what comes of it."""

    name: str  # of the file
    make: Make  # its content, or a function that writes it
    captions: Sequence[str] | None = None
    error: str = ""  # a pattern, if there are no captions
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        if callable(self.make):
            self.make(path)
        else:
            path.write_bytes(self.make.encode() if isinstance(self.make, str) else self.make)
        return path


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return bytes(sink.getvalue())


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def parquet(**columns: Any) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.table(columns), path)


def damaged_row_group(path: Path) -> None:
    """The second of three row groups has zeros in its pages."""
    rows = range(3000)
    table = pa.table({"url": [f"http://a/{i}" for i in rows], "caption": [f"c {i}" for i in rows]})
    pq.write_table(table, path, row_group_size=1000, use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)


def half_a_parquet(path: Path) -> None:
    damaged_row_group(path)
    path.write_bytes(half(path.read_bytes()))


def two_columns_of_one_name(path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["url", "caption", "caption"])
    pq.write_table(table, path)


def not_utf8(path: Path) -> None:
    """A column that is declared as text and holds Latin-1."""
    latin = pa.array([b"one", b"caf\xe9"])
    text = pa.Array.from_buffers(pa.string(), 2, latin.buffers())
    pq.write_table(pa.table({"url": ["a", "b"], "caption": text}), path)


def folder_with_a_bad_file(path: Path) -> None:
    path.mkdir()
    (path / "a.csv").write_text(CSV)
    (path / "b.csv").write_text("link,caption\n" + ROW)


def folder_of_other_files(path: Path) -> None:
    path.mkdir()
    (path / "README.md").touch()


HOSTILE: dict[str, Case] = {
    # other conventions of CSV
    "semicolons": Case(
        "x.csv", "url;caption\na;b, c\n", error=r"single column.*delimiter to \";\""
    ),
    "semicolons, named": Case(
        "x.csv", "url;caption\na;b, c\n", ["b, c"], settings={"delimiter": ";"}
    ),
    "tabs in a CSV": Case("x.csv", "url\tcaption\na\tb\n", error=r'delimiter to "\\t"'),
    "Latin-1": Case("x.csv", (CSV + "b,café\n").encode("latin-1"), error=r"Line 3 .*encoding"),
    "Latin-1, named": Case(
        "x.csv",
        "url,caption\nb,café\n".encode("latin-1"),
        ["café"],
        settings={"encoding": "latin-1"},
    ),
    "UTF-16": Case(
        "x.tsv", "url\tcaption\na\tb\n".encode("utf-16"), error=r"no column 'url'.*encoding"
    ),
    "UTF-16, named": Case(
        "x.tsv", "url\tcaption\na\té\n".encode("utf-16"), ["é"], settings={"encoding": "utf-16"}
    ),
    "byte order mark": Case("x.csv", "\ufeff" + CSV, ["one"]),
    "byte order mark in JSON": Case("x.jsonl", '\ufeff{"url": "a", "caption": "b"}', ["b"]),
    "CRLF": Case("x.csv", CSV.replace("\n", "\r\n"), ["one"]),
    "CR": Case("x.csv", (CSV + ROW).replace("\n", "\r"), ["one", "one"]),
    "no last line break": Case("x.csv", CSV.rstrip(), ["one"]),
    "blank lines": Case("x.csv", "\n" + CSV + "\n  \n" + ROW, ["one", "one"]),
    "quoted line breaks": Case("x.csv", 'url,caption\na,"b\n""c""\r\n"\n', ['b "c" ']),
    "emoji and right-to-left": Case(
        "x.csv", "url,caption\na,\u202e👩‍🚀 שלום\n", ["\u202e👩‍🚀 שלום"]
    ),
    # rows that are not like the others
    "too few fields": Case("x.csv", CSV + "b\n", error=r"Line 3 .*has 1 field, but .* has 2"),
    "too many fields": Case("x.csv", CSV + "b,c,d\n", error=r"Line 3 .*has 3 fields.*into quotes"),
    "lines are counted inside quotes": Case("x.csv", CSV + 'b,"c\nd"\ne\n', error=r"^Line 5 "),
    "a quote is not closed": Case("x.csv", CSV + 'b,"c\n' + ROW * 9, error=r"Line 3 .*every quote"),
    "text after a quote": Case("x.csv", CSV + 'b,"c" d\n', error=r"Line 3 .*malformed.*twice"),
    "two columns of a name": Case(
        "x.csv", "url,caption,url\na,b,c\n", error=r"more than one .*'url'"
    ),
    "two other columns of a name": Case("x.csv", "n,url,n,caption\n1,a,2,b\n", ["b"]),
    "two Parquet columns of a name": Case(
        "x.parquet", two_columns_of_one_name, error=r"more than one"
    ),
    "NUL": Case("x.csv", "url,caption\na,b\0c\n", ["b c"]),
    "zeros at the end": Case("x.csv", CSV + "\0" * 5000, error=r"Line 3 .*has 1 field,"),
    # nothing in it
    "header alone": Case("x.csv", "url,caption\n", error=r"has no rows\. Give"),
    "empty": Case("x.csv", "", error=r"is empty\. Give"),
    "blank": Case("x.tsv", "\n\n", error=r"is empty"),
    "empty JSON": Case("x.jsonl", "", error=r"has no rows"),
    "Parquet without rows": Case(
        "x.parquet",
        parquet(url=pa.array([], "string"), caption=pa.array([], "string")),
        error=r"no rows",
    ),
    "folder of other files": Case("x", folder_of_other_files, error=r"There is no URL list"),
    # not what the name says
    "page as gz": Case(
        "x.csv.gz", "<html>", error=r"x\.csv\.gz is not readable as CSV after line 0"
    ),
    "page as Parquet": Case(
        "x.parquet", "<html>" * 99, error=r"not readable as Parquet after row 0"
    ),
    "gz as CSV": Case("x.csv", gzip.compress(CSV.encode()), error=r"compressed"),
    "Parquet as JSON": Case("x.json", parquet(url=["a"], caption=["b"]), error=r"Line 1 .*JSON"),
    "Parquet in gz": Case("x.parquet.gz", b"", error=r"suffix '\.gz'"),
    "spreadsheet": Case("x.xlsx", b"", error=r"suffix '\.xlsx'"),
    # whole and damaged containers
    "half a gz": Case(
        "x.csv.gz", half(gzip.compress(MANY)), error=r"CSV after line [\d,]{5,}: Trunc"
    ),
    "half a bz2": Case("x.csv.bz2", half(bz2.compress(MANY)), error=r"after line"),
    "half an xz": Case("x.csv.xz", half(lzma.compress(MANY)), error=r"after line [\d,]{5,}"),
    "half a zst": Case("x.csv.zst", half(zstd(MANY)), error=r"after line .*Trunc"),
    "two gz in one": Case(
        "x.csv.gz", gzip.compress(CSV.encode()) + gzip.compress(ROW.encode()), ["one", "one"]
    ),
    "damaged row group": Case("x.parquet", damaged_row_group, error=r"Parquet after row [12],\d00"),
    "half a Parquet": Case("x.parquet", half_a_parquet, error=r"Parquet after row 0"),
    # JSON lines
    "broken JSON": Case(
        "x.jsonl",
        '{"url": "a", "caption": "b"}\n{"url": "a',
        error=r"Line 2 .*Unterminated.*each line",
    ),
    "a line that is no object": Case(
        "x.jsonl", '{"url": "a", "caption": "b"}\n7\n', error=r"Line 2 .*7"
    ),
    "a JSON array": Case(
        "x.json", '[{"url": "a", "caption": "b"}]', error=r"Line 1 .*not a JSON object: .*each line"
    ),
    "a column that some lines lack": Case(
        "x.jsonl", '{"url": "a"}\n{"url": "b", "caption": "c"}\n', ["", "c"]
    ),
    "a column that all lines lack": Case(
        "x.jsonl", '{"url": "a", "text": "b"}', error=r"'caption'; it"
    ),
    "deeply nested": Case("x.jsonl", "[" * 100_000, error=r"Line 1 .*nests too deeply"),
    "a number of many digits": Case("x.jsonl", "9" * 100_000, error=r"Line 1 .*too long a number"),
    "a lone surrogate": Case("x.jsonl", SURROGATE, error=r"Line 2 .*\\ud83d.*not valid Unicode"),
    # wrong types
    "numbers as captions": Case("x.parquet", parquet(url=["a"], caption=[7]), ["7"]),
    "numbers as captions of JSON": Case("x.jsonl", '{"url": "a", "caption": 7.5}', ["7.5"]),
    "a list as URL": Case(
        "x.parquet", parquet(url=[["a"]], caption=["b"]), error=r"list.*not text"
    ),
    "a list as URL in JSON": Case(
        "x.jsonl", '{"url": ["a"], "caption": "b"}', error=r"list.*not text"
    ),
    "an object as caption": Case(
        "x.parquet", parquet(url=["a"], caption=[{"b": 1}]), error=r"not text"
    ),
    "an object as caption in JSON": Case(
        "x.jsonl",
        SURROGATE.splitlines()[0] + '\n{"url": "a", "caption": {}}',
        error=r"Line 2 .*neither",
    ),
    "Latin-1 in Parquet": Case("x.parquet", not_utf8, error=r"Row 2 .*not UTF-8.*'caption'"),
    "Latin-1 as bytes": Case(
        "x.parquet", parquet(url=["a"], caption=[b"caf\xe9"]), error=r"Row 1 .*not UTF-8"
    ),
    "missing values": Case("x.parquet", parquet(url=["a", None], caption=[None, "b"]), ["", "b"]),
    "a word as number": Case(
        "x.csv",
        'n,url,caption\n1,a,"b\nc"\n7,d,e\nmany,f,g\n',
        error=r"^Line 5 .*has 'many' in the column 'n', which is not a number\. .*columns\.n=text",
        settings={"columns": {"n": "number"}},
    ),
    "a truth as number": Case(
        "x.parquet",
        parquet(url=["a"], caption=["b"], n=[True]),
        error=r"Row 1 .*'true'",
        settings={"columns": {"n": "number"}},
    ),
    "a hash of another kind": Case(
        "x.csv",
        "url,caption,h\na,b,d41d8cd98f00b204e9800998ecf8427e\nc,d,0x5f3759df\n",
        error=r"Line 3 .*'0x5f3759df'.*md5, sha1, sha256 or sha512",
        settings={"hash_column": "h"},
    ),
    # too much
    "a long caption": Case("x.csv", f"url,caption\na,{LONG[:4_000_000]}\n", [LONG[:4_000_000]]),
    "a line of 50 MB": Case("x.csv", f"{CSV}a,{LONG}\n", error=r"Line 3 .*4,194,304 characters"),
    "a JSON line of 50 MB": Case(
        "x.jsonl", json.dumps({"url": LONG}), error=r"Line 1 .*characters"
    ),
    "a header of 50 MB": Case("x.csv", LONG, error=r"Line 1 .*characters"),
    "a quote around 50 MB": Case(
        "x.csv", f'{CSV}a,"{ROW * 3_000_000}', error=r"Line 3 .*characters"
    ),
    "a small file of 50 MB": Case(
        "x.csv.gz", gzip.compress(bytes(50_000_000)), error=r"Line 1 .*char"
    ),
    "a Parquet caption of 50 MB": Case(
        "x.parquet", parquet(url=["a", "b"], caption=["c", LONG]), error=r"Row 2 .*more than 16 MiB"
    ),
    "one bad file in a folder": Case(
        "x", folder_with_a_bad_file, error=r"b\.csv has no column 'url'"
    ),
}
