"""Fetch the pictures of a URL list, shard by shard."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.artifacts import PairShards
from pipelines.artifacts.schema import PAIRS
from pipelines.core.errors import PipelineError
from pipelines.core.shard_records import forget
from pipelines.core.stage import Artifact, Context, Metadata, Stage
from pipelines.data.download import EXAMPLES_PER_REASON, DownloadConfig, DownloadWorker
from pipelines.data.url_list import check_url_list, list_digest, read_url_list
from pipelines.demo.dataset import HOST, data_digest, url_list
from pipelines.demo.server import serve
from unclip.config import Config, ConfigError

DEMO = "demo"  # in place of a path: the packaged list, whose pictures the stage serves itself


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Config):
    """The list of URLs and captions."""

    urls: str  # a path or URL of Parquet, CSV, TSV or JSON lines, or "demo"
    url_column: str  # its column of URLs
    caption_column: str  # its column of captions
    rows_per_shard: int  # the unit of work and of resume, in every stage

    def __post_init__(self) -> None:
        if self.rows_per_shard < 1:
            raise ConfigError(f"rows_per_shard={self.rows_per_shard} must be at least 1")

    def read(self) -> pa.Table:
        """The list with the columns url and caption."""
        if self.urls == DEMO:
            return url_list()
        return read_url_list(self.urls, self.url_column, self.caption_column)

    def check(self) -> None:
        """Raise `UrlListError` where the beginnings of its files tell that `read` would."""
        if self.urls != DEMO:
            check_url_list(self.urls, self.url_column, self.caption_column)

    def digest(self) -> str:
        """Of the list's content, wherever it lies."""
        return data_digest() if self.urls == DEMO else list_digest(self.urls)

    @contextmanager
    def served(self) -> Iterator[str]:
        """What relative addresses of the list are relative to, while the block lasts.

        The demo's list has no port: a free one is taken, and the pairs' keys stay the same.
        """
        if self.urls != DEMO:
            yield ""
            return
        with serve(0) as port:
            yield f"http://{HOST}:{port}"


class Slices(Mapping[str, pa.Table]):
    """The list cut into shards, each made only when a worker gets it."""

    def __init__(self, table: pa.Table, rows_per_shard: int) -> None:
        self.table, self.rows_per_shard = table, rows_per_shard
        count = -(-table.num_rows // rows_per_shard)
        self.starts = {f"{i:05d}": i * rows_per_shard for i in range(count)}

    def __getitem__(self, name: str) -> pa.Table:
        # Copied by `take`, because a slice is sent with the whole buffer behind it.
        rows = self.table.slice(self.starts[name], self.rows_per_shard)
        return rows.take(pa.array(range(rows.num_rows), pa.int64()))

    def __iter__(self) -> Any:
        return iter(self.starts)

    def __len__(self) -> int:
        return len(self.starts)


def total_counts(metadata: Iterable[Metadata]) -> dict[str, Any]:
    """Sum the shards' counts; of the examples of each reason, keep the first few."""
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
    """Pictures and captions of all rows that could be had."""

    name: ClassVar[str] = "download"
    artifact: ClassVar[type[Artifact]] = PairShards

    source: SourceConfig
    config: DownloadConfig

    def digests(self) -> Mapping[str, str]:
        """The list's content, so that an edited list is downloaded again."""
        return {"urls": self.source.digest()}

    def run(self, ctx: Context) -> PairShards:
        """Raise `PipelineError` where fewer rows succeed than `min_success_rate` asks for."""
        urls = self.source.read()
        items = Slices(urls, self.source.rows_per_shard)
        with self.source.served() as base_url:
            worker = DownloadWorker(self.config, base_url)
            metadata = ctx.map_shards(worker, items, schema=PAIRS, unit="shards")
        counts = total_counts(metadata.values())
        counts["listed"] = urls.num_rows
        floor = self.config.min_success_rate
        try:
            check_success_rate(counts, floor)
        except PipelineError:
            # What failed may have been the network: without its mark, a shard is tried again.
            forget(ctx.folder, [n for n, f in metadata.items() if not is_enough(f, floor)])
            raise
        return PairShards(ctx.folder, {n: f["rows"] for n, f in metadata.items()}, counts)


def check_success_rate(counts: Mapping[str, Any], floor: float) -> None:
    """Raise `PipelineError` with the counts by reason where too few rows were downloaded."""
    if is_enough(counts, floor):
        return
    listed, downloaded = counts["listed"], counts["downloaded"]
    reasons = ", ".join(f"{reason} {n}" for reason, n in counts["rejected"].items())
    raise PipelineError(
        f"Only {downloaded} of {listed} rows were downloaded ({downloaded / max(listed, 1):.1%}; "
        f"download.min_success_rate is {floor:.1%}). Rejected: {reasons}. Check the list and the "
        "network, or lower download.min_success_rate; the next run tries the "
        "shards with too few again."
    )


def is_enough(counts: Mapping[str, Any], floor: float) -> bool:
    """Whether at least this share of the listed rows was downloaded, and at least one."""
    return bool(counts["downloaded"]) and counts["downloaded"] >= floor * counts["listed"]
