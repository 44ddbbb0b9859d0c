"""A verdict on each pair: rules apply in the configured order, and the first reason counts.

Duplicates across shards are found beforehand (`pipelines.data.duplicates`).
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.artifacts.schema import VERDICTS, rendition
from pipelines.core.shard_writer import DIGEST_BYTES, ShardWriter
from pipelines.core.stage import Metadata
from pipelines.core.tables import read_batches, read_where
from pipelines.data.filter_config import FilterConfig
from pipelines.data.rules import Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilterItem:
    """One shard of pairs, and where the rows that repeat others are listed."""

    index: int  # of the shard in `repeats`
    pairs: str  # URL of the shard
    repeats: str | None = None  # URL of a table `duplicates.REJECTED`


@dataclass(frozen=True)
class FilterWorker:
    """Callable on a FilterItem; created once per process."""

    config: FilterConfig
    columns: tuple[str, ...] = ()  # of a pair, without images
    renditions: tuple[int, ...] = ()

    def __call__(self, item: FilterItem, out: ShardWriter) -> Metadata:
        """Writes a verdict on every pair, in their order."""
        rejected: Counter[str] = Counter()
        kept = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for verdicts in _tables(self.verdict(row) for row in self.rows(item)):
            reasons = verdicts["reason"].to_pylist()
            rejected.update(reason for reason in reasons if reason is not None)
            kept.update(bytes(reason is None for reason in reasons))
            out.write(verdicts)
        count = out.rows - sum(rejected.values())
        log.info("%s: kept %d of %d pairs", item.pairs, count, out.rows)
        counts = {"read": out.rows, "kept": count, "rejected": dict(sorted(rejected.items()))}
        return {**counts, "kept_digest": kept.hexdigest()}

    def verdict(self, row: Row) -> dict[str, Any]:
        """A row of `VERDICTS`."""
        reason = self.reason(row)
        of = row["repeats_key"] if reason == row["repeats"] else None
        return {"key": row["key"], "reason": reason, "repeats": of}

    def reason(self, row: Row) -> str | None:
        """The reason of the first rule that rejects the pair; None for a pair that is kept."""
        for rule in self.config.rules.values():
            reason = rule.reason(row)
            if reason is not None:
                return reason
        return None

    def rows(self, item: FilterItem) -> Iterator[Row]:
        """The pairs as the rules see them; with the smallest image only if a rule needs it."""
        image = rendition(self.renditions[0]) if self.renditions else "image"
        visible = [*self.columns, *([image] if self.config.needs_image else [])]
        names = ["image" if name == image else name for name in visible]
        repeats = _repeats(item)
        position = 0
        for batch in read_batches(item.pairs, visible):
            for row in batch.rename_columns(names).to_pylist():
                reason, key = repeats.get(position, (None, None))
                yield {**row, "repeats": reason, "repeats_key": key}
                position += 1


def _repeats(item: FilterItem) -> dict[int, tuple[str, str]]:
    """Row → reason and the key of the pair that is kept."""
    if item.repeats is None:
        return {}
    found = read_where(item.repeats, "shard", item.index).to_pylist()
    return {row["row"]: (row["reason"], row["kept_key"]) for row in found}


def _tables(verdicts: Iterator[dict[str, Any]], rows: int = 4096) -> Iterator[pa.Table]:
    """Verdicts in tables of some thousand rows."""
    while batch := [verdict for _, verdict in zip(range(rows), verdicts, strict=False)]:
        yield pa.Table.from_pylist(batch, schema=VERDICTS)
