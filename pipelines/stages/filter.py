"""Drop pairs that break a rule; every rejection is counted by reason."""

import logging
from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import PairShards
from pipelines.artifacts.schema import PAIRS
from pipelines.core.errors import PipelineError
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.data.duplicates import IDENTITY_COLUMNS, exact_duplicates
from pipelines.data.filter import FilterItem, FilterWorker
from pipelines.data.filter_config import FilterConfig
from pipelines.stages.download import total_counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filter(Stage[PairShards]):
    """The pairs that pass every rule."""

    kind: ClassVar[str] = "filter"
    artifact: ClassVar[type[Artifact]] = PairShards

    pairs: Stage[PairShards]
    config: FilterConfig

    def check(self) -> None:
        """Raise `ConfigError` if a rule cannot work."""
        for rule in self.config.rules.values():
            rule.check()

    def run(self, ctx: Context) -> PairShards:
        """Find duplicates over all shards, then filter each."""
        pairs = ctx.load(self.pairs)
        repeats = ctx.call(find_duplicates, pairs) if self.config.finds_duplicates else {}
        items = {
            name: FilterItem(pairs.folder.file(f"{name}.parquet"), repeats.get(name, frozenset()))
            for name in pairs.rows
        }
        metadata = ctx.map_shards(FilterWorker(self.config), items, schema=PAIRS, unit="shards")
        counts = total_counts(metadata.values())
        if not counts["kept"]:
            reasons = ", ".join(f"{reason} {n}" for reason, n in counts["rejected"].items())
            raise PipelineError(
                f"The filter rejected all {counts['read']} pairs: {reasons}. Loosen "
                "filter.rules, or set a rule to null to leave it out."
            )
        log.info("kept %d of %d pairs", counts["kept"], counts["read"])
        return PairShards(ctx.folder, {n: f["rows"] for n, f in metadata.items()}, counts)


def find_duplicates(pairs: PairShards) -> dict[str, frozenset[int]]:
    """The rows of each shard that repeat an earlier one."""
    return exact_duplicates({n: pairs.read(n, list(IDENTITY_COLUMNS)) for n in pairs.rows})
