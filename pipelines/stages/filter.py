"""Judge every pair by the rules; every rejection is counted by reason."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import PairShards, VerdictShards
from pipelines.artifacts.schema import VERDICTS, rendition
from pipelines.core.errors import PipelineError
from pipelines.core.shard_records import ShardRecord
from pipelines.core.stage import Artifact, Context, Stage, entries
from pipelines.data.filter import FilterWorker, RepeatItem, RepeatWorker
from pipelines.data.filter_config import FilterConfig
from pipelines.data.repeats import find_repeats
from pipelines.stages.counts import check_books, total_counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filter(Stage[VerdictShards]):
    """Which pairs pass every rule. The pairs themselves stay where they are."""

    kind: ClassVar[str] = "filter"
    version: ClassVar[int] = 3  # 2: verdicts; 3: only pairs that pass other rules are compared
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
        """Judge each pair, then compare those that are left."""
        pairs = ctx.load(self.pairs)
        records = self._judge(ctx, pairs)
        if self.config.of_repeats.rules:
            records = self._compare(ctx, pairs, records)
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

    def _judge(self, ctx: Context, pairs: PairShards) -> Mapping[str, ShardRecord]:
        """The verdicts of rules that look at one pair."""
        images = {"image", *map(rendition, pairs.renditions)}
        names = [name for name in pairs.schema().names if name not in images]
        lists = dict(self.digests())  # of the deny lists, read once for all shards
        return ctx.map_shards(
            FilterWorker(self.config.of_one_pair, tuple(names), pairs.renditions),
            {name: pairs.url(name) for name in pairs.shards},
            schema=VERDICTS,
            unit="shards",
            made_from={name: [entry.digest, lists] for name, entry in pairs.shards.items()},
        )

    def _compare(
        self, ctx: Context, pairs: PairShards, judged: Mapping[str, ShardRecord]
    ) -> Mapping[str, ShardRecord]:
        """The verdicts with the reasons of rules that compare pairs."""
        shared = ctx.folder.shared()
        verdicts = {name: shared.file(f"{record.stem}.parquet") for name, record in judged.items()}
        repeats = ctx.call(find_repeats, pairs, verdicts, self.config.max_distance, ctx.folder)
        assert repeats.url is not None
        return ctx.map_shards(
            RepeatWorker(self.config.of_repeats),
            {
                name: RepeatItem(index, verdicts[name], repeats.url)
                for index, name in enumerate(sorted(pairs.shards))
            },
            schema=VERDICTS,
            unit="shards compared",
            made_from={
                name: [record.digest, repeats.digests.get(name)] for name, record in judged.items()
            },
        )
