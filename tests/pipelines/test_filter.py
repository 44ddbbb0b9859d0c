import json
import pickle
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.artifacts.schema import PAIRS
from pipelines.core.tables import check_schema
from pipelines.data.dates import is_mostly_date
from pipelines.data.duplicates import IDENTITY_COLUMNS, exact_duplicates
from pipelines.data.filter import FilterConfig, FilterItem, FilterWorker
from pipelines.demo.dataset import FAILING_ROWS, rows
from unclip.config import ConfigError

CONFIG = FilterConfig(
    min_caption_chars=3,
    max_caption_chars=80,
    drop_date_captions=True,
    languages=("en",),
    language_min_probability=0.9,
    language_min_chars=40,
    min_side=16,
    max_aspect_ratio=3.0,
    drop_exact_duplicates=True,
)
GERMAN = "Ein großer grüner Laubbaum mit einem kräftigen braunen Stamm"


def pair(caption: str = "a red heart", key: str = "k", **changes: Any) -> dict[str, Any]:
    row = {
        "key": key,
        "url": "http://x/" + key,
        "caption": caption,
        "image": b"jpeg",
        "width": 32,
        "height": 32,
        "original_width": 64,
        "original_height": 64,
        "sha256": "0" * 64,
    }
    return row | changes


def table(*pairs: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(pairs), schema=PAIRS)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair(), None),
        (pair(" ok  "), "caption_too_short"),
        (pair("long " * 20), "caption_too_long"),
        (pair("2021-04-07 18:32:10"), "caption_is_a_date"),
        (pair(GERMAN), "language"),
        (pair("flag: Bosnia & Herzegovina"), None),
        (pair(original_width=8, original_height=64), "too_small"),
        (pair(original_width=640, original_height=32), "aspect_ratio"),
        (pair(original_width=48, original_height=16), None),
    ],
)
def test_each_rule_rejects_what_it_says(row, reason):
    assert FilterWorker(CONFIG).reason(row, is_duplicate=False) == reason


def test_the_first_broken_rule_is_the_one_that_is_counted():
    row = pair(GERMAN, original_width=1)
    assert FilterWorker(CONFIG).reason(row, is_duplicate=True) == "language"
    any_language = FilterWorker(replace(CONFIG, languages=()))
    assert any_language.reason(row, is_duplicate=True) == "too_small"


def test_rules_can_be_switched_off():
    config = replace(CONFIG, languages=(), drop_date_captions=False, drop_exact_duplicates=False)
    for caption in (GERMAN, "2021-04-07"):
        assert FilterWorker(config).reason(pair(caption), is_duplicate=True) is None


def test_kept_rows_are_unchanged_in_their_order_and_every_other_one_is_counted(tmp_path):
    kept = [pair(f"picture {i}", key=str(i)) for i in range(4)]
    shard = table(kept[0], pair("x"), kept[1], pair(GERMAN), kept[2], kept[3], kept[3])
    pq.write_table(shard, tmp_path / "00000.parquet")
    worker = pickle.loads(pickle.dumps(FilterWorker(CONFIG)))
    result, metadata = worker(FilterItem(str(tmp_path / "00000.parquet"), frozenset({6})))
    check_schema(result, PAIRS, where="the test")
    assert result.to_pylist() == kept
    assert metadata["rejected"] == {"caption_too_short": 1, "duplicate": 1, "language": 1}
    assert metadata["read"] == metadata["kept"] + sum(metadata["rejected"].values())
    assert metadata["examples"]["language"] == [GERMAN]
    json.dumps(metadata)


def test_a_shard_of_which_nothing_is_kept_is_an_empty_table_of_the_schema():
    result, _ = FilterWorker(CONFIG).filter(table(pair("x")))
    check_schema(result, PAIRS, where="the test")
    assert result.num_rows == 0


def test_the_demo_captions_stay_and_its_failing_ones_go():
    worker = FilterWorker(CONFIG)
    bad = {text for _, text in FAILING_ROWS}
    rejected = {
        text for _, text in rows() if worker.reason(pair(text), is_duplicate=False) is not None
    }
    short = {text for text in rejected if len(text) < 3}
    assert rejected - short <= bad
    assert len(rejected - short) == 3  # the date, the German and the French one


@pytest.mark.parametrize(
    "text",
    ["2021-04-07 18:32:10", "7/4/2021", "April 7th, 2021", "Wed, 7 April 2021", "May 2019", "1999"],
)
def test_dates_are_mostly_dates(text):
    assert is_mostly_date(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "keycap: 10",
        "May I come in",
        "a calendar that shows July 17",
        "the Berlin wall in 1989",
        "a sunny day in march",
    ],
)
def test_captions_with_a_date_or_a_number_in_them_are_not(text):
    assert not is_mostly_date(text)


LETTERS = st.sampled_from("abc")
SHARDS = st.dictionaries(
    st.sampled_from(["00000", "00001", "00002"]),
    st.lists(st.tuples(LETTERS, LETTERS, LETTERS), max_size=6),
)
IDENTITY = pa.schema([pa.field(name, pa.string()) for name in IDENTITY_COLUMNS])


@given(SHARDS)
@settings(max_examples=200, deadline=None)
def test_a_row_is_dropped_exactly_if_it_repeats_an_earlier_kept_row(shards):
    dropped = exact_duplicates(
        {
            name: pa.Table.from_pylist(
                [dict(zip(IDENTITY_COLUMNS, row, strict=True)) for row in identities], IDENTITY
            )
            for name, identities in shards.items()
        }
    )
    assert set(dropped) == set(shards)
    kept: list[tuple[str, str, str]] = []
    for name in sorted(shards):
        for i, row in enumerate(shards[name]):
            repeats = any(row[0] == other[0] or row[1:] == other[1:] for other in kept)
            assert (i in dropped[name]) == repeats
            if not repeats:
                kept.append(row)


def test_settings_that_leave_nothing_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match="leave no caption"):
        replace(CONFIG, min_caption_chars=100)
    with pytest.raises(ConfigError, match=r"give 1\.0"):
        replace(CONFIG, max_aspect_ratio=0.5)
    with pytest.raises(ConfigError, match="ISO 639"):
        replace(CONFIG, languages=("English",))
    with pytest.raises(ConfigError, match="xx cannot be detected"):
        FilterWorker(replace(CONFIG, languages=("xx",))).reason(pair(GERMAN), is_duplicate=False)
