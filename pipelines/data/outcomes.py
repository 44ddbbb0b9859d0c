"""What became of each row of a slice, written as pairs and as outcomes, and counted."""

import logging
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipelines.artifacts import OUTCOMES_NAME
from pipelines.artifacts.schema import OUTCOMES, pair_key
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.data.url_policy import without_credentials

log = logging.getLogger(__name__)

Row = dict[str, Any]
BUFFER_ROWS = 32  # rows that are written at once
MAX_DETAIL = 300  # characters


@dataclass(frozen=True)
class Outcome:
    """What became of one row: the columns of a pair, or why there is none."""

    row: Row  # of the list
    pair: Row | None
    reason: str | None = None
    detail: str | None = None
    attempts: int = 0
    time: datetime | None = None

    @property
    def nbytes(self) -> int:
        """About what a finished row holds in memory."""
        values = self.pair.values() if self.pair else ()
        return sum(len(value) for value in values if isinstance(value, bytes))


class Book:
    """Writes pairs and outcomes, and counts them."""

    def __init__(self, out: ShardWriter) -> None:
        self.out = out
        self.pairs: list[Row] = []
        self.outcomes: list[Row] = []
        self.rejected: Counter[str] = Counter()
        self.downloaded = 0

    def add(self, outcome: Outcome) -> None:
        """The next row in the list's order."""
        values = {
            "key": pair_key(outcome.row["url"], outcome.row["caption"]),
            "url": without_credentials(outcome.row["url"]),
            "row": None if outcome.pair is None else self.downloaded,
            "reason": outcome.reason,
            "detail": outcome.detail and outcome.detail[:MAX_DETAIL],
            "attempts": outcome.attempts,
            "time": outcome.time or datetime.now(UTC),
        }
        self.outcomes.append(values)
        if outcome.reason is not None:
            self.rejected[outcome.reason] += 1
            return
        assert outcome.pair is not None
        self.downloaded += 1
        self.pairs.append({**outcome.pair, **_listed(outcome.row), "key": values["key"]})
        if len(self.pairs) == BUFFER_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the pairs that wait."""
        self.out.write(pa.Table.from_pylist(self.pairs, schema=self.out.schema))
        self.pairs = []

    def close(self, listed: int) -> Metadata:
        """Write the rest; returns the counts of rows."""
        self.flush()
        self.out.attach(OUTCOMES_NAME, pa.Table.from_pylist(self.outcomes, schema=OUTCOMES))
        rejected = sum(self.rejected.values())
        assert listed == self.downloaded + rejected, (listed, self.downloaded, rejected)
        log.info("%d of %d rows: %s", self.downloaded, listed, dict(self.rejected))
        return {
            "listed": listed,
            "downloaded": self.downloaded,
            "rejected": dict(sorted(self.rejected.items())),
        }


def _listed(row: Row) -> Row:
    """The values of a list's row that its pair keeps."""
    return {name: value for name, value in row.items() if name != "hash"}
