"""Captions that break terminals, tokenizers or queries, from the list to the embeddings."""

import json
import random
import string
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.artifacts import EmbeddingShards, PairShards
from pipelines.core.stage import Stage
from pipelines.core.store import Store
from pipelines.data.filter_config import FilterConfig, read_rules
from pipelines.stages.embed import Embed, EmbedConfig
from pipelines.stages.filter import Filter
from tests.pipelines.counting import Site, download_stage, site
from tests.pipelines.given import GivenClip
from tests.pipelines.local import make

WORD = "".join(random.Random(0).choices(string.ascii_lowercase, k=1_000_000))
RULES = {
    "caption_length": {"min_chars": 0, "max_chars": 10_000_000},
    "caption_date": {},
    "language": {"keep": ["en"], "min_probability": 1.0, "min_chars": 1},
    "duplicate": {},
}
# What the list says, and what is stored if it is something else.
CAPTIONS = {
    "NUL": ("a\0b", "a b"),
    "terminal": ("\x1b[2J\x1b]0;title\x07red", " [2J ]0;title red"),
    "lines": ("one\r\ntwo\tthree\x85four", "one two three four"),
    "nothing but control characters": ("\0\x01\x7f\x9f", " "),
    "right-to-left": ("\u202egnp.exe \u2066\u05d0\u2069", None),
    "nothing": ("", None),
    "white space": (" \u00a0\u3000 ", None),
    "zero width": ("\u200b\u200d\ufeff\u2060", None),
    "line separator": ("a\u2028b", None),
    "marks": ("a" + "\u0301" * 1000, None),
    "noncharacters": ("\uffff\ufffe\U0010ffff\ue000", None),
    "emoji": ("👩\u200d🚀🏴\U000e0067\U000e007f", None),
    "markup": ("<script>alert('caption')</script><!-- &lt;b>", None),
    "SQL": ("'; DROP TABLE pairs; --\"", None),
    "format": ("{0} %s ${HOME} `id` {{ 7 * 7 }} \\", None),
    "special tokens": ("<start_of_text><end_of_text>" * 99, None),
    "JSON": ('{"a": "\\ud800"}', None),
    "a megabyte of words": ("red heart " * 100_000, None),
    "a word of a megabyte": (WORD, None),
}


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as running:
        yield running


def write_parquet(path: Path, rows: list[tuple[str, str]]) -> None:
    urls, captions = zip(*rows, strict=True)
    pq.write_table(pa.table({"url": urls, "caption": captions}), path)


def write_json(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"url": u, "caption": c}) + "\n" for u, c in rows))


def embed(pairs: Stage[PairShards]) -> Stage[EmbeddingShards]:
    verdicts = Filter(pairs, FilterConfig(rules=read_rules(RULES)))
    return Embed(pairs, verdicts, GivenClip(), EmbedConfig(batch_size=8))


@pytest.mark.parametrize("name", ["list.parquet", "list.jsonl"])
def test_hostile_captions_are_stored_as_one_line_of_text_and_embedded(
    tmp_path: Path, server: Site, name: str
) -> None:
    write = write_parquet if name.endswith("parquet") else write_json
    given = [caption for caption, _ in CAPTIONS.values()]
    write(tmp_path / name, [(server.row(n)[0], caption) for n, caption in enumerate(given)])
    store = Store(str(tmp_path / "store"))
    stage = download_stage(tmp_path / name, store.root)
    embeddings, pairs = make(store, embed(stage)), make(store, stage)
    rows = [row for shard in pairs.shards for row in pairs.read(shard).to_pylist()]
    stored = {row["url"]: row["caption"] for row in rows}
    expected = [caption if clean is None else clean for caption, clean in CAPTIONS.values()]
    assert stored == {server.row(n)[0]: caption for n, caption in enumerate(expected)}
    assert {unicodedata.category(sign) for text in stored.values() for sign in text}.isdisjoint(
        {"Cc", "Cs"}
    )
    vectors = [embeddings.read(shard)["text_embeds"] for shard in embeddings.shards]
    assert sum(map(len, vectors)) == len(CAPTIONS)
    assert all(np.isfinite(np.stack(column.to_pylist())).all() for column in vectors)


def test_urls_with_quotes_and_control_characters_are_known_in_the_next_run(
    tmp_path: Path, server: Site
) -> None:
    path, store = tmp_path / "list.parquet", Store(str(tmp_path / "store"))
    ends = ["#'; DROP TABLE new; --", "#\0", "#\x1b[31m", '#"', "#\u202e", "#\ud7ff\uffff"]
    rows = [(server.row(n)[0] + end, "a caption") for n, end in enumerate(ends)]
    write_parquet(path, rows)
    make(store, download_stage(path, store.root))
    assert server.taken() == len(rows)
    write_parquet(path, [*rows, server.row(len(rows))])
    assert make(store, download_stage(path, store.root)).total_rows == len(rows) + 1
    assert server.taken() == 1
