"""What earlier shards know about the rows of a slice, so that no image is fetched twice."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pipelines.artifacts.schema import OUTCOMES
from pipelines.core.tables import ParquetRows, read_table, read_where

log = logging.getLogger(__name__)

OPEN_SHARDS = 4  # from which rows are copied, each with a row group in memory
# Columns of a pair that do not come from its image.
OF_THE_ROW = frozenset({"key", "url", "caption", "held_out"})


class Known(NamedTuple):
    """The outcome of a URL in an earlier shard."""

    pair: tuple[str, int] | None  # shard of pairs (URL) and row; None if it was rejected
    reason: str | None
    detail: str | None
    attempts: int
    time: datetime


class Earlier(ABC):
    """Where the earlier outcomes of a slice are."""

    @abstractmethod
    def read(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, Known]:
        """The known outcomes of a slice's rows, by their position in the slice."""


@dataclass(frozen=True)
class Retry:
    """Rows that are fetched again: those with one of the reasons, URLs or keys."""

    reasons: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def matches(self, outcome: Mapping[str, Any]) -> bool:
        """Whether a row with this outcome (a row of `OUTCOMES`) is fetched again."""
        return (
            outcome["reason"] in self.reasons
            or outcome["url"] in self.urls
            or outcome["key"] in self.keys
        )


@dataclass(frozen=True)
class EarlierVersion(Earlier):
    """The same slice, downloaded before; some of its rows are fetched again."""

    pairs: str  # URL of the shard
    outcomes: str  # URL of its outcomes
    retries: tuple[Retry, ...]

    def read(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, Known]:  # noqa: ARG002
        """All outcomes but those of the rows that are fetched again."""
        outcomes = read_table(self.outcomes, schema=OUTCOMES).to_pylist()
        return {
            number: known(outcome, self.pairs)
            for number, outcome in enumerate(outcomes)
            if not any(retry.matches(outcome) for retry in self.retries)
        }


@dataclass(frozen=True)
class EarlierUrls(Earlier):
    """Rows of other slices with the same URLs, as `find_known_urls` found them."""

    url: str  # of the table KNOWN_URLS
    name: str  # of the slice

    def read(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, Known]:  # noqa: ARG002
        """The outcomes of URLs that were fetched before."""
        table = read_where(self.url, "slice", self.name)
        return {
            outcome["number"]: known(outcome, outcome["pairs"]) for outcome in table.to_pylist()
        }


def known(outcome: Mapping[str, Any], pairs: str) -> Known:
    """From a row of outcomes."""
    row = outcome["row"]
    return Known(
        None if row is None else (pairs, row),
        outcome["reason"],
        outcome["detail"],
        outcome["attempts"],
        outcome["time"],
    )


class PairReader:
    """Reads single pairs from shards, mostly in the shards' order."""

    def __init__(self) -> None:
        self.open = lru_cache(maxsize=OPEN_SHARDS)(ParquetRows)

    def read(self, url: str, row: int) -> dict[str, Any]:
        """The columns of one pair that depend on its image."""
        found: dict[str, Any] = self.open(url).row(row)
        return {name: value for name, value in found.items() if name not in OF_THE_ROW}
