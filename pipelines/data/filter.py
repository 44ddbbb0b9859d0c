"""Filter one shard of pairs: rules apply in the configured order, and the first reason counts.

Duplicates across shards are found beforehand (`pipelines.data.duplicates`); each shard comes with
the rows that repeat an earlier pair.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.artifacts import EXAMPLES_PER_REASON
from pipelines.artifacts.schema import PAIRS
from pipelines.core.tables import read_table
from pipelines.data.filter_config import FilterConfig
from pipelines.data.rules import Row

log = logging.getLogger(__name__)

EXAMPLE_CHARS = 200
BATCH_ROWS = 256  # converted to Python objects at a time, with images if a rule needs them


@dataclass(frozen=True)
class FilterItem:
    """One shard of pairs, by the URL of its Parquet file, and the rows that repeat others."""

    url: str
    duplicates: frozenset[int] = frozenset()


@dataclass(frozen=True)
class FilterWorker:
    """Callable on a FilterItem; created once per process."""

    config: FilterConfig

    def __call__(self, item: FilterItem) -> tuple[pa.Table, dict[str, Any]]:
        """Returns the kept rows, in their order, and the rejections by reason."""
        pairs = read_table(item.url, schema=PAIRS)
        table, metadata = self.filter(pairs, item.duplicates)
        log.info("%s: kept %d of %d pairs", item.url, metadata["kept"], metadata["read"])
        return table, metadata

    def filter(
        self, pairs: pa.Table, duplicates: frozenset[int] = frozenset()
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Filter a table of PAIRS that is in memory."""
        captions = pairs["caption"].to_pylist()
        reasons = [self.reason(row) for row in self.rows(pairs, duplicates)]
        examples: dict[str, list[str]] = {}
        for caption, reason in zip(captions, reasons, strict=True):
            if reason and len(examples.setdefault(reason, [])) < EXAMPLES_PER_REASON:
                examples[reason].append(caption[:EXAMPLE_CHARS])
        rejected = Counter(reason for reason in reasons if reason)
        kept = pairs.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
        metadata = {
            "read": pairs.num_rows,
            "kept": kept.num_rows,
            "rejected": dict(sorted(rejected.items())),
            "examples": dict(sorted(examples.items())),
        }
        return kept.cast(PAIRS), metadata

    def rows(self, pairs: pa.Table, duplicates: frozenset[int]) -> Iterator[Row]:
        """The pairs as the rules see them; with images only if a rule needs them."""
        visible = pairs if self.config.needs_image else pairs.drop_columns(["image"])
        position = 0
        for batch in visible.to_batches(max_chunksize=BATCH_ROWS):
            for row in batch.to_pylist():
                yield {**row, "repeats_earlier": position in duplicates}
                position += 1

    def reason(self, row: Row) -> str | None:
        """The reason of the first rule that rejects the pair; None for a pair that is kept."""
        for rule in self.config.rules.values():
            reason = rule.reason(row)
            if reason is not None:
                return reason
        return None
