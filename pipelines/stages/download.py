"""Download the images of a URL list, shard by shard."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.artifacts import EXAMPLES_PER_REASON, PairShards
from pipelines.artifacts.schema import PAIRS
from pipelines.core.errors import PipelineError
from pipelines.core.shard_records import forget
from pipelines.core.stage import Artifact, Context, Metadata, Stage
from pipelines.data.download import DownloadConfig, DownloadWorker
from pipelines.data.sources import SourceConfig, find_source, list_schema

log = logging.getLogger(__name__)


class Slices(Mapping[str, pa.Table]):
    """The list cut into shards, each copied only when a worker asks for it."""

    def __init__(self, table: pa.Table, rows_per_shard: int) -> None:
        self.table, self.rows_per_shard = table, rows_per_shard
        count = -(-table.num_rows // rows_per_shard)
        self.starts = {f"{i:05d}": i * rows_per_shard for i in range(count)}

    def __getitem__(self, name: str) -> pa.Table:
        # `take` copies the rows: a slice would be sent with the whole buffer behind it.
        rows = self.table.slice(self.starts[name], self.rows_per_shard)
        return rows.take(pa.array(range(rows.num_rows), pa.int64()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.starts)

    def __len__(self) -> int:
        return len(self.starts)


def total_counts(metadata: Iterable[Metadata]) -> dict[str, Any]:
    """The sums of the shards' counts, with the first few examples of each reason."""
    numbers: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for shard in metadata:
        numbers.update({k: v for k, v in shard.items() if isinstance(v, int)})
        rejected.update(shard.get("rejected", {}))
        for reason, urls in shard.get("examples", {}).items():
            known = examples.setdefault(reason, [])
            known += urls[: EXAMPLES_PER_REASON - len(known)]
    return {**numbers, "rejected": dict(rejected.most_common()), "examples": examples}


@dataclass(frozen=True)
class Download(Stage[PairShards]):
    """Images and captions of all rows that could be downloaded."""

    kind: ClassVar[str] = "download"
    artifact: ClassVar[type[Artifact]] = PairShards

    source: SourceConfig
    config: DownloadConfig

    def digests(self) -> Mapping[str, str]:
        """The list's content, so that an edited list is downloaded again."""
        return {"urls": find_source(self.source).digest()}

    def check(self) -> None:
        """Raise `PipelineError` or `ConfigError` if the list cannot be used."""
        find_source(self.source).check()

    def run(self, ctx: Context) -> PairShards:
        """Download all rows. Raises `PipelineError` if fewer succeed than `min_success_rate`."""
        source = find_source(self.source)
        batches = pa.Table.from_batches(source.all_batches(), list_schema(self.source))
        urls = batches.select(["url", "caption"]).combine_chunks()
        items = Slices(urls, self.source.rows_per_shard)
        log.info("%d rows in %d shards", urls.num_rows, len(items))
        with source.served() as base_url:
            worker = DownloadWorker(self.config, base_url)
            metadata = ctx.map_shards(worker, items, schema=PAIRS, unit="shards")
        counts = total_counts(metadata.values())
        counts["listed"] = urls.num_rows
        floor = self.config.min_success_rate
        try:
            check_success_rate(counts, floor)
        except PipelineError:
            # The network may have failed: the next run tries shards without a record again.
            forget(ctx.folder, [n for n, f in metadata.items() if not is_enough(f, floor)])
            raise
        return PairShards(ctx.folder, {n: f["rows"] for n, f in metadata.items()}, counts)


def check_success_rate(counts: Mapping[str, Any], floor: float) -> None:
    """Raise `PipelineError` with the counts by reason if too few rows were downloaded."""
    if is_enough(counts, floor):
        return
    listed, downloaded = counts["listed"], counts["downloaded"]
    reasons = ", ".join(f"{reason} {n}" for reason, n in counts["rejected"].items())
    raise PipelineError(
        f"Only {downloaded} of {listed} rows were downloaded ({downloaded / max(listed, 1):.1%}; "
        f"download.min_success_rate is {floor:.1%}). Rejected: {reasons}. Check the list and the "
        "network, or lower download.min_success_rate; the next run tries the shards with too few "
        "images again."
    )


def is_enough(counts: Mapping[str, Any], floor: float) -> bool:
    """Whether at least this share of the listed rows was downloaded, and at least one."""
    return bool(counts["downloaded"]) and counts["downloaded"] >= floor * counts["listed"]
