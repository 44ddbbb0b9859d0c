"""Pairs of packaged images; some captions and URLs try to inject markup into a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.artifacts import (
    PairShards,
)
from pipelines.artifacts.schema import PAIRS, pair_key
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.demo.dataset import emoji
from tests.pipelines.local import write_table

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
        "sha256": "0" * 64,
    }


@dataclass(frozen=True)
class GivenPairs(Stage[PairShards]):
    """Packaged images in two shards."""

    kind: ClassVar[str] = "filter"
    artifact: ClassVar[type[Artifact]] = PairShards

    rows: int
    stands_for: str = "kept"

    def run(self, ctx: Context) -> PairShards:
        rows = [pair(number) for number in range(self.rows)]
        half = len(rows) // 2
        shards = {"00000": rows[:half], "00001": rows[half:]}
        for name, part in shards.items():
            write_table(ctx.folder, f"{name}.parquet", pa.Table.from_pylist(part, schema=PAIRS))
        return PairShards(ctx.folder, {n: len(p) for n, p in shards.items()}, self.counts())

    def counts(self) -> Mapping[str, Any]:
        rejected = {"not_an_image": 2, "private_address": 1}
        examples = {"not_an_image": [HOSTILE_URL], "private_address": ["http://10.0.0.1/a.jpg"]}
        total = {"rows": self.rows + 3, "read": self.rows + 3}
        return {**total, self.stands_for: self.rows, "rejected": rejected, "examples": examples}


@dataclass(frozen=True)
class GivenDownload(GivenPairs):
    kind: ClassVar[str] = "download"
