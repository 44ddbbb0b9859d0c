"""A verdict on each pair: rules apply in the configured order, and the first reason counts.

Rules that look at one pair come first. Only pairs that pass them all are compared with each other
(`pipelines.data.duplicates`), so no pair is rejected for one that another rule rejects.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from pipelines.artifacts.schema import VERDICTS, rendition
from pipelines.core.shard_writer import DIGEST_BYTES, ShardWriter
from pipelines.core.stage import Metadata
from pipelines.core.tables import read_batches, read_where
from pipelines.data.filter_config import FilterConfig
from pipelines.data.rules import Row

log = logging.getLogger(__name__)

BATCH = 4096  # verdicts


@dataclass(frozen=True)
class FilterWorker:
    """Callable on the URL of a shard of pairs; created once per process."""

    config: FilterConfig
    columns: tuple[str, ...] = ()  # of a pair, without images
    renditions: tuple[int, ...] = ()

    def __call__(self, pairs: str, out: ShardWriter) -> Metadata:
        """Writes a verdict on every pair, in their order."""
        verdicts = (
            {"key": row["key"], "reason": self.reason(row), "repeats": None}
            for row in self.rows(pairs)
        )
        return _write(verdicts, out)

    def reason(self, row: Row) -> str | None:
        """The reason of the first rule that rejects the pair; None for a pair that is kept."""
        return first_reason(self.config, row)

    def rows(self, pairs: str) -> Iterator[Row]:
        """The pairs as the rules see them; with the smallest image only if a rule needs it."""
        image = rendition(self.renditions[0]) if self.renditions else "image"
        visible = [*self.columns, *([image] if self.config.needs_image else [])]
        names = ["image" if name == image else name for name in visible]
        for batch in read_batches(pairs, visible):
            yield from batch.rename_columns(names).to_pylist()


@dataclass(frozen=True)
class RepeatItem:
    """One shard of verdicts, and where the rows that repeat others are listed."""

    index: int  # of the shard in `repeats`
    verdicts: str  # URL of the shard, as `FilterWorker` wrote it
    repeats: str  # URL of a table `duplicates.REJECTED`


@dataclass(frozen=True)
class RepeatWorker:
    """Callable on a RepeatItem: adds the reasons of rules that compare pairs."""

    config: FilterConfig  # with these rules only

    def __call__(self, item: RepeatItem, out: ShardWriter) -> Metadata:
        """Writes a verdict on every pair, in their order."""
        found = read_where(item.repeats, "shard", item.index).to_pylist()
        return _write(self.verdicts(item.verdicts, {row["row"]: row for row in found}), out)

    def verdicts(self, url: str, repeats: Mapping[int, Row]) -> Iterator[Row]:
        """Rows of `VERDICTS`. repeats: rows of `duplicates.REJECTED` by their position."""
        position = 0
        for batch in read_batches(url, VERDICTS.names):
            for verdict in batch.to_pylist():
                found = repeats.get(position)
                position += 1
                reason = found and first_reason(self.config, {"repeats": found["reason"]})
                if found and reason:
                    verdict |= {"reason": reason, "repeats": found["kept_key"]}
                yield verdict


def first_reason(config: FilterConfig, row: Row) -> str | None:
    """The reason of the first rule that rejects a row, or None."""
    for rule in config.rules.values():
        reason = rule.reason(row)
        if reason is not None:
            return reason
    return None


def _write(verdicts: Iterator[Row], out: ShardWriter) -> Metadata:
    """Write and count verdicts, some thousand at a time."""
    rejected: Counter[str] = Counter()
    kept = hashlib.blake2b(digest_size=DIGEST_BYTES)
    while batch := list(islice(verdicts, BATCH)):
        reasons = [verdict["reason"] for verdict in batch]
        rejected.update(reason for reason in reasons if reason is not None)
        kept.update(bytes(reason is None for reason in reasons))
        out.write(pa.Table.from_pylist(batch, schema=VERDICTS))
    count = out.rows - sum(rejected.values())
    log.info("kept %d of %d pairs", count, out.rows)
    counts = {"read": out.rows, "kept": count, "rejected": dict(sorted(rejected.items()))}
    return {**counts, "kept_digest": kept.hexdigest()}
