"""What became of each row of the list, over all data stages. One shard at a time."""

# The tables of a shard are row-aligned: outcomes name a row of the pairs, verdicts follow the
# pairs' order, and selections name a row of the pairs.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.artifacts import PairShards, SelectionShards, VerdictShards
from pipelines.artifacts.schema import OUTCOMES, SELECTION, VERDICTS
from pipelines.core.scan import read_ahead
from pipelines.core.tables import read_table

Fate = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which rows are looked for. Empty fields do not restrict; values of one field are joined."""

    reasons: Sequence[str] = ()
    stages: Sequence[str] = ()
    urls: Sequence[str] = ()
    keys: Sequence[str] = ()

    @property
    def is_specific(self) -> bool:
        """Whether any field restricts the rows."""
        return bool(self.reasons or self.stages or self.urls or self.keys)

    def matches(self, fate: Fate) -> bool:
        """Whether a row is one of them."""
        fields = {"reason": self.reasons, "stage": self.stages, "url": self.urls, "key": self.keys}
        return all(not values or fate[name] in values for name, values in fields.items())


@dataclass(frozen=True)
class DataResults:
    """The results that tell what became of rows; those that do not exist yet are None."""

    pairs: PairShards
    verdicts: VerdictShards | None = None
    selection: SelectionShards | None = None

    def fates(self, wanted: Wanted) -> Iterator[tuple[str, list[Fate]]]:
        """By slice, the rows that are wanted: key, url, stage, reason, detail, attempts, time.

        A row that every stage kept has no stage and no reason.
        """
        yield from read_ahead(
            self.pairs.shards,
            lambda name: [fate for fate in self.of_shard(name) if wanted.matches(fate)],
        )

    def of_shard(self, name: str) -> list[Fate]:
        """The rows of one slice, in its order."""
        outcomes = read_table(self.pairs.outcomes_url(name), schema=OUTCOMES).to_pylist()
        later = {**self._selection(name), **self._verdicts(name)}
        return [
            _fate(outcome, later.get(outcome["row"], (None, None, None))) for outcome in outcomes
        ]

    def _verdicts(self, name: str) -> dict[int, tuple[str, str, str | None]]:
        """Row of the pairs → stage, reason and detail, of those that the filter rejected."""
        if self.verdicts is None:
            return {}
        table = read_table(self.verdicts.url(name), ["reason", "repeats"], VERDICTS)
        return {
            row: ("filter", verdict["reason"], _repeats(verdict))
            for row, verdict in enumerate(table.to_pylist())
            if verdict["reason"] is not None
        }

    def _selection(self, name: str) -> dict[int, tuple[str, str, str | None]]:
        """The same for the selection."""
        if self.selection is None or name not in self.selection.shards:
            return {}
        table = read_table(self.selection.url(name), ["row", "reason", "repeats"], SELECTION)
        return {
            verdict["row"]: ("select", verdict["reason"], _repeats(verdict))
            for verdict in table.to_pylist()
            if verdict["reason"] is not None
        }


def _fate(outcome: Mapping[str, Any], later: tuple[str | None, str | None, str | None]) -> Fate:
    failed = outcome["reason"] is not None
    stage, reason, detail = ("download", outcome["reason"], outcome["detail"]) if failed else later
    return {
        "key": outcome["key"],
        "url": outcome["url"],
        "stage": stage,
        "reason": reason,
        "detail": detail,
        "attempts": outcome["attempts"],
        "time": outcome["time"],
    }


def _repeats(verdict: Mapping[str, Any]) -> str | None:
    return f"repeats {verdict['repeats']}" if verdict["repeats"] else None
