"""Judge every pair by the rules; every rejection is counted by reason."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import PairShards, VerdictShards
from pipelines.artifacts.schema import VERDICTS, rendition
from pipelines.core.errors import PipelineError
from pipelines.core.stage import Artifact, Context, Stage, entries
from pipelines.data.filter import FilterItem, FilterWorker
from pipelines.data.filter_config import FilterConfig
from pipelines.data.repeats import Repeats, find_repeats
from pipelines.stages.counts import check_books, total_counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filter(Stage[VerdictShards]):
    """Which pairs pass every rule. The pairs themselves stay where they are."""

    kind: ClassVar[str] = "filter"
    version: ClassVar[int] = 2  # 2: verdicts in place of copied pairs
    artifact: ClassVar[type[Artifact]] = VerdictShards

    pairs: Stage[PairShards]
    config: FilterConfig

    def digests(self) -> Mapping[str, str]:
        """The content of the deny lists."""
        return self.config.digests()

    def check(self) -> None:
        """Raise `ConfigError` if a rule cannot work."""
        for rule in self.config.rules.values():
            rule.check()

    def run(self, ctx: Context) -> VerdictShards:
        """Find duplicates over all shards, then judge each."""
        pairs = ctx.load(self.pairs)
        repeats = Repeats.none()
        if self.config.finds_duplicates:
            repeats = ctx.call(find_repeats, pairs, self.config.max_distance, ctx.folder)
        images = {"image", *map(rendition, pairs.renditions)}
        names = [name for name in pairs.schema().names if name not in images]
        lists = dict(self.digests())  # of the deny lists, read once for all shards
        records = ctx.map_shards(
            FilterWorker(self.config, tuple(names), pairs.renditions),
            {
                name: FilterItem(index, pairs.url(name), repeats.url)
                for index, name in enumerate(sorted(pairs.shards))
            },
            schema=VERDICTS,
            unit="shards",
            made_from={
                name: [entry.digest, repeats.digests.get(name), lists]
                for name, entry in pairs.shards.items()
            },
        )
        counts = total_counts(record.metadata for record in records.values())
        check_books(self.name, pairs.total_rows, counts["kept"], counts["rejected"])
        if not counts["kept"]:
            reasons = ", ".join(f"{reason} {n}" for reason, n in counts["rejected"].items())
            raise PipelineError(
                f"The filter rejected all {counts['read']} pairs: {reasons}. Loosen "
                "filter.rules, or set a rule to null to leave it out."
            )
        log.info("kept %d of %d pairs", counts["kept"], counts["read"])
        kept = {name: record.metadata["kept_digest"] for name, record in records.items()}
        return VerdictShards(ctx.folder, entries(records), counts, kept)
