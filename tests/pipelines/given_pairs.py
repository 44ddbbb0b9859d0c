"""Pairs of packaged images; some captions and URLs try to inject markup into a page."""

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.artifacts import ListShards, PairShards, VerdictShards
from pipelines.artifacts.schema import OUTCOMES, VERDICTS, pair_key, pairs, url_list
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.core.tables import read_table
from pipelines.demo.dataset import emoji
from tests.pipelines.local import own_entries, write_table

HOSTILE_CAPTION = '<script>alert("caption")</script>'
HOSTILE_URL = 'http://example.invalid/"><img src=x onerror=alert(1)>'


def pair(number: int) -> dict[str, Any]:
    row = emoji().slice(number * 7, 1).to_pylist()[0]
    caption = HOSTILE_CAPTION if number == 0 else row["label"]
    url = f"http://example.invalid/{row['key']}.jpg"
    return {
        "key": pair_key(url, caption),
        "url": url,
        "caption": caption,
        "image": row["image"],
        "width": 128,
        "height": 128,
        "original_width": 128,
        "original_height": 128,
        "sha256": sha256(row["image"]).hexdigest(),
        "phash": number,
        "held_out": None,
    }


@dataclass(frozen=True)
class GivenPairs(Stage[PairShards]):
    """Packaged images in two shards, and the outcomes of their rows and of three others."""

    kind: ClassVar[str] = "download"
    artifact: ClassVar[type[Artifact]] = PairShards

    rows: int

    def run(self, ctx: Context) -> PairShards:
        rows = [pair(number) for number in range(self.rows)]
        half = len(rows) // 2
        shards = {"00000": rows[:half], "00001": rows[half:]}
        for name, part in shards.items():
            table = pa.Table.from_pylist(part, schema=pairs({}, ()))
            write_table(ctx.folder, f"{name}.parquet", table)
            listed = outcomes(part, OTHERS if name == "00000" else [])
            write_table(ctx.folder, f"{name}.outcomes.parquet", listed)
        rejected = {"not_an_image": 2, "private_address": 1}
        counts = {"listed": self.rows + 3, "downloaded": self.rows, "rejected": rejected}
        return PairShards(ctx.folder, own_entries({n: len(p) for n, p in shards.items()}), counts)


def outcomes(downloaded: list[dict[str, Any]], others: list[tuple[str, str]]) -> pa.Table:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {"key": row["key"], "url": row["url"], "row": number, "attempts": 1, "time": time}
        for number, row in enumerate(downloaded)
    ] + [
        {"key": pair_key(url, ""), "url": url, "reason": reason, "attempts": 1, "time": time}
        for url, reason in others
    ]
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


OTHERS = [
    (HOSTILE_URL, "not_an_image"),
    ("http://example.invalid/page.jpg", "not_an_image"),
    ("http://10.0.0.1/a.jpg", "private_address"),
]


@dataclass(frozen=True)
class GivenList(Stage[ListShards]):
    """The list that these pairs were downloaded from, with their URLs for captions."""

    kind: ClassVar[str] = "list"
    artifact: ClassVar[type[Artifact]] = ListShards

    pairs: Stage[PairShards]

    def run(self, ctx: Context) -> ListShards:
        pairs = ctx.load(self.pairs)
        rows = {}
        for name in pairs.shards:
            urls = read_table(pairs.outcomes_url(name), ["url"])["url"].to_pylist()
            listed = [{"url": url, "caption": url} for url in urls]
            table = pa.Table.from_pylist(listed, schema=url_list({}))
            write_table(ctx.folder, f"{name}.parquet", table)
            rows[name] = len(urls)
        counts = {"listed": sum(rows.values()), "rejected": {}}
        return ListShards(ctx.folder, own_entries(rows), counts, {})


@dataclass(frozen=True)
class GivenVerdicts(Stage[VerdictShards]):
    """Every pair is kept."""

    kind: ClassVar[str] = "filter"
    artifact: ClassVar[type[Artifact]] = VerdictShards

    pairs: Stage[PairShards]

    def run(self, ctx: Context) -> VerdictShards:
        pairs = ctx.load(self.pairs)
        for name in pairs.shards:
            keys = pairs.read(name, ["key"])["key"].to_pylist()
            table = pa.Table.from_pylist([{"key": key} for key in keys], schema=VERDICTS)
            write_table(ctx.folder, f"{name}.parquet", table)
        counts = {"read": pairs.total_rows, "kept": pairs.total_rows, "rejected": {}}
        shards = own_entries({name: entry.rows for name, entry in pairs.shards.items()})
        return VerdictShards(ctx.folder, shards, counts, {name: name for name in shards})
