"""A verdict on each embedded pair: the similarity floor, near duplicates, and the split."""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.artifacts.schema import SELECTION, is_held_out
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.core.tables import read_table, read_where

log = logging.getLogger(__name__)

SPLIT_COLUMNS = ("sha256", "held_out")  # of a pair, which decide its split


@dataclass(frozen=True)
class SelectItem:
    """One shard: where its columns are, and where the rows that repeat others are listed."""

    index: int  # of the shard in `repeats`
    embeddings: str  # URL of the shard
    pairs: str  # URL of the shard
    repeats: str | None = None  # URL of a table `near_duplicates.REJECTED`


@dataclass(frozen=True)
class SelectWorker:
    """Callable on a SelectItem."""

    min_similarity: float
    held_out_fraction: float

    def __call__(self, item: SelectItem, out: ShardWriter) -> Metadata:
        """Writes a row of `SELECTION` for each embedding, in their order."""
        embedded = read_table(item.embeddings, ["key", "row", "similarity"]).to_pylist()
        splits = read_splits(item.pairs)
        repeats = _repeats(item)
        rejected: Counter[str] = Counter()
        verdicts = []
        for position, row in enumerate(embedded):
            reason, of = self.reason(row["similarity"], repeats.get(position))
            given, sha256 = splits[row["row"]]
            held_out = is_held_out(given, sha256, self.held_out_fraction)
            verdicts.append(verdict(row["key"], row["row"], position, held_out, reason, of))
            if reason:
                rejected[reason] += 1
        out.write(pa.Table.from_pylist(verdicts, schema=SELECTION))
        return {**count_splits(verdicts), "rejected": dict(sorted(rejected.items()))}

    def reason(self, similarity: float, repeats: str | None) -> tuple[str | None, str | None]:
        """Why a pair is rejected, and the key of the pair that it repeats."""
        if similarity < self.min_similarity:
            return "similarity", None
        return (None, None) if repeats is None else ("near_duplicate", repeats)


def verdict(
    key: str,
    row: int,
    position: int,
    held_out: bool,
    reason: str | None = None,
    repeats: str | None = None,
) -> dict[str, Any]:
    """A row of `SELECTION`."""
    return {
        "key": key,
        "row": row,
        "position": position,
        "held_out": held_out,
        "reason": reason,
        "repeats": repeats,
    }


def count_splits(verdicts: list[dict[str, Any]]) -> dict[str, int]:
    """The selected pairs of each split."""
    selected = [v["held_out"] for v in verdicts if v["reason"] is None]
    held_out = sum(selected)
    return {"read": len(verdicts), "held_out": held_out, "training": len(selected) - held_out}


def read_splits(pairs: str) -> list[tuple[bool | None, str]]:
    """What decides the split of each pair of a shard: what the list says, and the image's hash."""
    columns = read_table(pairs, SPLIT_COLUMNS)
    return list(zip(columns["held_out"].to_pylist(), columns["sha256"].to_pylist(), strict=True))


def _repeats(item: SelectItem) -> dict[int, str]:
    """Position → the key of the pair that is kept."""
    if item.repeats is None:
        return {}
    found = read_where(item.repeats, "shard", item.index).to_pylist()
    return {row["row"]: row["kept_key"] for row in found}
