import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from pipelines.artifacts.schema import VERDICTS, pair_key
from pipelines.artifacts.schema import pairs as pairs_schema
from pipelines.config.files import ConfigFileError, find_config
from pipelines.config.load import load_config
from pipelines.core.store import Store
from pipelines.data.duplicates import REJECTED
from pipelines.data.filter import FilterWorker, RepeatItem, RepeatWorker
from pipelines.data.filter_config import FilterConfig
from pipelines.data.rules import (
    AspectRatio,
    CaptionDate,
    CaptionLength,
    Deny,
    Duplicate,
    FilterRule,
    ImageSide,
    Language,
    NearCopy,
    is_mostly_date,
)
from pipelines.demo.dataset import rows
from pipelines.demo.server import find_page
from pipelines.stages.filter import Filter
from tests.pipelines.given_pairs import GivenPairs
from tests.pipelines.local import make, work
from unclip.config import ConfigError

PAIRS = pairs_schema({}, ())
RULES: dict[str, FilterRule] = {
    "caption_length": CaptionLength(min_chars=3, max_chars=80),
    "caption_date": CaptionDate(),
    "language": Language(keep=("en",), min_probability=0.9, min_chars=40),
    "image_side": ImageSide(min_pixels=16),
    "aspect_ratio": AspectRatio(max_ratio=3.0),
    "duplicate": Duplicate(),
}
CONFIG = FilterConfig(rules=RULES)
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
        "phash": 0,
        "held_out": None,
        "repeats": None,
    }
    return row | changes


def only(**rules: FilterRule) -> FilterWorker:
    return FilterWorker(FilterConfig(rules=rules))


def table(*pairs: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(pairs), schema=PAIRS)  # without repeats


def judge(config: FilterConfig, shard: pa.Table, *repeats: int) -> tuple[pa.Table, dict[str, Any]]:
    """The verdicts on a shard, some rows of which repeat the first one, and the metadata."""
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(shard, Path(folder) / "pairs.parquet")
        rows = [
            {"shard": 3, "row": row, "reason": "duplicate", "kept_key": shard["key"][0].as_py()}
            for row in repeats
        ]
        pq.write_table(pa.Table.from_pylist(rows, REJECTED), Path(folder) / "repeats.parquet")
        columns = tuple(name for name in PAIRS.names if name != "image")
        alone = pickle.loads(pickle.dumps(FilterWorker(config.of_one_pair, columns)))
        verdicts, _ = work(alone, f"{folder}/pairs.parquet", VERDICTS)
        pq.write_table(verdicts, Path(folder) / "verdicts.parquet")
        compare = pickle.loads(pickle.dumps(RepeatWorker(config.of_repeats)))
        item = RepeatItem(3, f"{folder}/verdicts.parquet", f"{folder}/repeats.parquet")
        return work(compare, item, VERDICTS)


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
        (pair(repeats="duplicate"), "duplicate"),
    ],
)
def test_each_rule_rejects_what_it_says(row, reason):
    assert FilterWorker(CONFIG).reason(row) == reason


def test_the_first_rule_that_rejects_a_pair_is_counted() -> None:
    row = pair(GERMAN, original_width=1, repeats="duplicate")
    assert FilterWorker(CONFIG).reason(row) == "language"
    turned = FilterConfig(rules=dict(reversed(RULES.items())))
    assert FilterWorker(turned).reason(row) == "duplicate"
    assert {FilterWorker(c).reason(pair()) for c in (CONFIG, turned)} == {None}


def test_a_rule_that_is_left_out_rejects_nothing() -> None:
    for left_out, row in [
        ("language", pair(GERMAN)),
        ("caption_date", pair("2021-04-07")),
        ("duplicate", pair(repeats="duplicate")),
    ]:
        assert FilterWorker(CONFIG).reason(row) is not None
        rules = {name: rule for name, rule in RULES.items() if name != left_out}
        assert only(**rules).reason(row) is None


def test_every_row_gets_a_verdict_in_its_order_and_every_rejection_is_counted() -> None:
    kept = [pair(f"picture {i}", key=str(i)) for i in range(4)]
    shard = table(kept[0], pair("x"), kept[1], pair(GERMAN), kept[2], kept[3], kept[3])
    verdicts, metadata = judge(CONFIG, shard, 6)
    assert verdicts["key"].equals(shard["key"])
    reasons = [None, "caption_too_short", None, "language", None, None, "duplicate"]
    assert verdicts["reason"].to_pylist() == reasons
    assert verdicts["repeats"].to_pylist() == [None] * 6 + ["0"]
    assert metadata["rejected"] == {"caption_too_short": 1, "duplicate": 1, "language": 1}
    assert metadata["read"] == metadata["kept"] + sum(metadata["rejected"].values())
    json.dumps(metadata)


def test_the_digest_of_what_is_kept_depends_on_nothing_else() -> None:
    shard = table(pair("a heart", "1"), pair(GERMAN, "2"), pair("x", "3"))
    looser = FilterConfig(
        rules={**RULES, "caption_length": CaptionLength(min_chars=2, max_chars=9)}
    )
    digests = [judge(config, shard)[1]["kept_digest"] for config in (CONFIG, looser)]
    assert digests[0] == digests[1]
    without = FilterConfig(rules={n: r for n, r in RULES.items() if n != "language"})
    assert judge(without, shard)[1]["kept_digest"] != digests[0]


def demo_pairs() -> pa.Table:
    """The rows of the demo that can be downloaded and decoded."""
    pairs = []
    for url, caption in rows():
        page = find_page(url)
        if page is None or page[0] != "image/jpeg" or "truncated" in url:
            continue
        width, height = Image.open(io.BytesIO(page[1])).size
        pairs.append(
            pair(
                caption,
                key=pair_key(url, caption),
                image=page[1],
                original_width=width,
                original_height=height,
                sha256=hashlib.sha256(page[1]).hexdigest(),
            )
        )
    return table(*pairs)


def test_the_demo_loses_the_rows_that_fail_on_purpose_and_no_other() -> None:
    pairs = demo_pairs()
    keys = pairs["key"].to_pylist()
    repeats = [row for row, key in enumerate(keys) if key in keys[:row]]
    _, metadata = judge(load_config("demo").filter, pairs, *repeats)
    # Counted by the filter as it was before its rules became classes.
    assert metadata["rejected"] == {
        "aspect_ratio": 1,
        "caption_is_a_date": 1,
        "caption_too_short": 1,
        "duplicate": 1,
        "language": 2,
        "too_small": 1,
    }
    assert (metadata["read"], metadata["kept"]) == (1875, 1868)


OWN_RULES = """
import io
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image, ImageStat

from pipelines.data.rules import FilterRule


@dataclass(frozen=True, kw_only=True)
class Bright(FilterRule):
    tag: ClassVar[str] = "bright"
    needs_image: ClassVar[bool] = True

    max_mean: float  # of the grey levels

    def reason(self, row):
        with Image.open(io.BytesIO(row["image"])) as image:
            grey = image.convert("L")
        return "too_bright" if ImageStat.Stat(grey).mean[0] > self.max_mean else None


class Bare(FilterRule):
    tag = "bare"

    def reason(self, row):
        return None
"""


@pytest.fixture
def own_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_filter_rules.py").write_text(OWN_RULES)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_filter_rules"


def test_a_rule_of_the_users_own_is_named_in_the_yaml_and_filters(
    tmp_path: Path, own_rules: str
) -> None:
    text = find_config("demo").read_text()
    line = "    duplicate: {}\n"
    assert line in text
    (tmp_path / "own.yaml").write_text(
        text.replace(line, f"{line}    {own_rules}:Bright: {{ max_mean: 190.0 }}\n", 1)
    )
    config = load_config(str(tmp_path / "own.yaml")).filter
    assert list(config.rules)[-2:] == ["duplicate", f"{own_rules}:Bright"]
    pairs = GivenPairs(rows=12)
    store = Store(str(tmp_path / "store"))
    counts = make(store, Filter(pairs, config)).counts
    means = [
        np.asarray(Image.open(io.BytesIO(row["image"])).convert("L")).mean()
        for name in ("00000", "00001")
        for row in make(store, pairs).read(name).to_pylist()
    ]
    bright = sum(mean > 190 for mean in means)
    assert 0 < bright < 12
    assert (counts["kept"], counts["rejected"]) == (12 - bright, {"too_bright": bright})
    stricter = FilterConfig(rules={**config.rules, f"{own_rules}:Bright": RULES["caption_date"]})
    assert Filter(pairs, stricter).key != Filter(pairs, config).key


def test_no_pair_is_rejected_for_one_that_another_rule_rejects(tmp_path: Path) -> None:
    pairs, store = GivenPairs(rows=8), Store(str(tmp_path / "store"))
    near = {"near_copy": NearCopy(max_distance=3)}  # the hashes of all pairs differ in 3 bits

    def kept(**rules: FilterRule) -> tuple[list[str], set[str | None]]:
        verdicts = make(store, Filter(pairs, FilterConfig(rules=near | rules)))
        rows = [row for name in verdicts.shards for row in verdicts.read(name).to_pylist()]
        copies = {row["repeats"] for row in rows if row["reason"] == "near_copy"}
        return [row["key"] for row in rows if row["reason"] is None], copies

    (best,), copies = kept()
    assert copies == {best}
    (tmp_path / "denied.txt").write_text(f"{best}\n")
    (second,), copies = kept(deny=Deny(keys=str(tmp_path / "denied.txt")))
    assert second != best
    assert copies == {second}


def test_processes_that_start_later_can_import_the_modules_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "rules_beside.py").write_text(OWN_RULES)
    text = find_config("demo").read_text()
    (tmp_path / "own.yaml").write_text(
        text.replace("duplicate: {}", "rules_beside:Bright: { max_mean: 1.0 }", 1)
    )
    rules = load_config(str(tmp_path / "own.yaml")).filter.rules
    worker = pickle.dumps(FilterWorker(FilterConfig(rules=rules)))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).config.rules)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=worker, capture_output=True, timeout=60, check=True
    )
    assert "Bright(max_mean=1.0)" in done.stdout.decode()


def messages(raw: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with a filter section, by place."""
    with pytest.raises(ValidationError) as error:
        TypeAdapter(FilterConfig).validate_json(json.dumps(raw))
    return {".".join(map(str, e["loc"])): e["msg"] for e in error.value.errors()}


def test_errors_in_rules_name_the_place_and_a_fix(own_rules: str) -> None:
    errors = messages(
        {
            "rules": {
                "image_sides": {},
                "image_side": {"min_pixel": 3},
                "aspect_ratio": {"max_ratio": 0.5},
                "caption_length": {"min_chars": "3", "max_chars": 9},
                "caption_date": [],
                f"{own_rules}:Bright": {},
                f"{own_rules}:Brigth": {},
                f"{own_rules}:Bare": {},
            }
        }
    )
    expected = {
        "rules.image_sides": "unknown filter rule 'image_sides'; did you mean image_side?",
        "rules.image_side.min_pixel": "did you mean min_pixels?",
        "rules.aspect_ratio": "give 1.0 (squares only) or more",
        "rules.caption_length.min_chars": "valid integer",
        "rules.caption_date": "give a mapping of the rule's settings",
        f"rules.{own_rules}:Bright.max_mean": "required",
        f"rules.{own_rules}:Brigth": "did you mean Bright?",
        f"rules.{own_rules}:Bare": "is not a filter rule; write a class with `@dataclass",
    }
    assert errors.keys() == expected.keys()
    assert [place for place, text in expected.items() if text not in errors[place]] == []


def test_the_keys_of_before_the_rules_are_refused_with_their_new_places() -> None:
    errors = messages({"min_side": 32, "drop_date_captions": True})
    assert "filter.rules.image_side.min_pixels" in errors["min_side"]
    assert "filter.rules.caption_date: {}" in errors["drop_date_captions"]
    with pytest.raises(ConfigFileError, match=r"filter\.min_side: .*rules\.image_side\.min_pixels"):
        load_config("demo", ["filter.min_side=32"])


def test_a_rule_is_switched_off_by_null() -> None:
    config = load_config("demo", ["filter.rules.duplicate=null"]).filter
    assert list(config.rules) == [
        "caption_length",
        "caption_date",
        "language",
        "image_side",
        "aspect_ratio",
    ]
    assert not config.of_repeats.rules
    assert list(load_config("demo").filter.of_repeats.rules) == ["duplicate"]


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


def test_settings_that_leave_nothing_are_refused_with_a_fix() -> None:
    with pytest.raises(ConfigError, match="leave no caption"):
        CaptionLength(min_chars=100, max_chars=80)
    with pytest.raises(ConfigError, match=r"give 1\.0"):
        AspectRatio(max_ratio=0.5)
    for keep in (("English",), ()):
        with pytest.raises(ConfigError, match="ISO 639"):
            Language(keep=keep, min_probability=0.9, min_chars=1)


def test_a_language_that_cannot_be_detected_is_refused_before_the_filter_runs() -> None:
    language = Language(keep=("xx",), min_probability=0.9, min_chars=40)
    stage = Filter(GivenPairs(rows=2), FilterConfig(rules={"language": language}))
    with pytest.raises(ConfigError, match="xx cannot be detected"):
        stage.check()
    Filter(GivenPairs(rows=2), CONFIG).check()
