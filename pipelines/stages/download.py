"""Download the images of a URL list, slice by slice."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pipelines.artifacts import OUTCOMES_FILE, ListShards, PairShards
from pipelines.artifacts.schema import pairs
from pipelines.core import fingerprint
from pipelines.core.digests import file_digest
from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.core.shard_folder import ShardFolder, existing_shards, shared_shards
from pipelines.core.shard_records import ShardRecord, all_versions
from pipelines.core.stage import Artifact, Context, Outlook, Stage, entries, load_artifact
from pipelines.core.store import Store
from pipelines.data.download import DownloadItem, DownloadWorker
from pipelines.data.download_config import DownloadConfig
from pipelines.data.earlier import EarlierUrls, EarlierVersion
from pipelines.data.known_urls import KNOWN_URLS, find_known_urls
from pipelines.data.retries import RetryEntry, read_retries
from pipelines.data.sources import SourceConfig, find_source
from pipelines.stages.counts import check_books, total_counts
from unclip.config import not_in_key

log = logging.getLogger(__name__)


class Items(Mapping[str, DownloadItem]):
    """The slices by name; an item is made only when a worker asks for it."""

    def __init__(self, names: Iterable[str], make: Callable[[str], DownloadItem]) -> None:
        self.names, self.make = list(names), make

    def __getitem__(self, name: str) -> DownloadItem:
        return self.make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Download(Stage[PairShards]):
    """Images and captions of all rows that could be downloaded, and what became of the others.

    A slice that has a shard is not touched, and neither is a URL that an earlier shard knows. Only
    `unclip retry` fetches a URL again.
    """

    kind: ClassVar[str] = "download"
    version: ClassVar[int] = 3  # 2: outcomes, perceptual hashes; 3: hashes of pixels by area
    varies: ClassVar[bool] = True
    artifact: ClassVar[type[Artifact]] = PairShards

    urls: Stage[ListShards]
    config: DownloadConfig
    source: SourceConfig = not_in_key()  # serves the images of the demo's list
    store: str | None = not_in_key(None)  # where the log of retries is

    def digests(self) -> Mapping[str, str]:
        """The log of retries: after one, the result is another."""
        if self.store is None or not self.log_folder.exists(self.log_name):
            return {}
        return {"retries": file_digest(self.log_folder.file(self.log_name))}

    @property
    def log_folder(self) -> Folder:
        """The folder of the log of retries."""
        return Folder(f"{str(self.store).rstrip('/')}/{self.name}")

    @property
    def log_name(self) -> str:
        """The log of retries of this list under these settings."""
        inputs = {path: stage.key for path, stage in self.dependencies.items()}
        return f"{fingerprint.digest(self.describe(inputs, {}))}.retries.json"

    @cached_property
    def retries(self) -> list[RetryEntry]:
        """The retries so far, the oldest first."""
        return read_retries(self.log_folder, self.log_name) if self.store else []

    def run(self, ctx: Context) -> PairShards:
        """Download what is new. Raises `PipelineError` if too few rows succeed in all."""
        listed = ctx.load(self.urls)
        with find_source(self.source).served() as base_url:
            records = ctx.map_shards(
                DownloadWorker(self.config, base_url),
                Items(listed.shards, self._item_maker(ctx, listed)),
                schema=pairs(listed.columns, self.config.renditions),
                unit="slices",
                made_from={name: name for name in listed.shards},
                versions={name: entry.version for entry in self.retries for name in entry.slices},
            )
        counts = self._counts(listed, records)
        check_success_rate(counts, self.config.min_success_rate)
        shards = entries(records)
        return PairShards(ctx.folder, shards, counts, listed.columns, self.config.renditions)

    def so_far(self, store: Store) -> PairShards:
        """What was downloaded, whether or not the stage has finished.

        Raises `PipelineError` if there is nothing yet.
        """
        manifest = store.manifest(self.name, self.key)
        if manifest is not None:
            return load_artifact(store, self)
        listed = load_artifact(store, self.urls)
        where = self._shards(store, listed.shards)
        found = entries(where.find())
        if not found:
            raise PipelineError(f"Nothing was downloaded yet to {store.root}. Run the pipeline.")
        return PairShards(where.result, found, {}, listed.columns, self.config.renditions)

    def foresee(self, store: Store, inputs: Mapping[str, Outlook], scratch: Path) -> Outlook:
        """Which slices are new, and how many of their rows no earlier shard knows."""
        listed = inputs["urls"]
        where = self._shards(store, listed.rows)
        found = where.find()
        old = {n: e for n, e in entries(found).items() if not self._retries_after(e.stem, n)}
        new = {name: listed.urls[name] for name in listed.rows if name not in found}
        known = 0
        if earlier := self._earlier_outcomes(where.folder):
            known = find_known_urls(new, earlier, Folder(str(scratch)))
        fetched = sum(listed.rows[name] for name in new) - known
        again = " and those of the last retry" if len(old) < len(found) else ""
        urls = {name: where.folder.file(f"{entry.stem}.parquet") for name, entry in old.items()}
        return Outlook(listed.rows, old, urls, f"{fetched:,}{again} to fetch")

    def _item_maker(self, ctx: Context, listed: ListShards) -> Callable[[str], DownloadItem]:
        """How the item of a slice is made, given what exists before anything is fetched."""
        existing = ctx.existing({name: name for name in listed.shards})
        shared = ctx.folder.shared()
        self._find_known(ctx, {n: listed.url(n) for n in listed.shards if n not in existing})
        knows = ctx.folder.exists(KNOWN_URLS)

        def make(name: str) -> DownloadItem:
            url = listed.url(name)
            if name in existing:
                stem = existing[name].stem
                retries = tuple(e.retry for e in self._retries_after(stem, name))
                pairs, outcomes = (f"{stem}{end}" for end in (".parquet", OUTCOMES_FILE))
                known = EarlierVersion(shared.file(pairs), shared.file(outcomes), retries)
                return DownloadItem(url, known)
            return DownloadItem(
                url, EarlierUrls(ctx.folder.file(KNOWN_URLS), name) if knows else None
            )

        return make

    def _find_known(self, ctx: Context, new: Mapping[str, str]) -> None:
        """Look for the URLs of new slices in all shards with the same settings.

        Only once for a result: an interrupted run finds what it would have found undisturbed.
        """
        if new and not ctx.folder.exists(KNOWN_URLS):
            earlier = {} if ctx.is_forced else self._earlier_outcomes(ctx.folder.shared())
            if earlier:
                ctx.call(find_known_urls, new, earlier, ctx.folder)
            else:  # no worker is needed to find none
                find_known_urls(new, earlier, ctx.folder)

    def _shards(self, store: Store, slices: Iterable[str]) -> ShardFolder:
        """The shards of these slices, as they are now."""
        made_from = {name: name for name in slices}
        result, existing = store.folder(self.name, self.key), existing_shards(store, self)
        return shared_shards(self, result, existing, made_from)

    def _earlier_outcomes(self, shared: Folder) -> dict[str, str]:
        """The tables of outcomes with the same settings, by the URL of their shard of pairs."""
        files = shared.files()
        versions = all_versions(files).values()
        last = [v[0] for v in versions if v[0].startswith(f"{self.settings_digest}-")]
        return {
            shared.file(f"{stem}.parquet"): shared.file(f"{stem}{OUTCOMES_FILE}")
            for stem in last
            if f"{stem}{OUTCOMES_FILE}" in files
        }

    def _retries_after(self, stem: str, name: str) -> list[RetryEntry]:
        version = stem.partition("@")[2]
        return [e for e in self.retries if e.version > version and name in e.slices]

    def _counts(self, listed: ListShards, records: Mapping[str, ShardRecord]) -> dict[str, Any]:
        """The counts over all slices; rows of repeated slices are duplicates."""
        counts = total_counts(record.metadata for record in records.values())
        repeated = listed.counts["rejected"].get("duplicate_row", 0)
        if repeated:
            rejected = counts["rejected"]
            rejected["duplicate_row"] = rejected.get("duplicate_row", 0) + repeated
        counts["listed"] = listed.counts["listed"]
        check_books(self.name, counts["listed"], counts["downloaded"], counts["rejected"])
        return counts


def check_success_rate(counts: Mapping[str, Any], floor: float) -> None:
    """Raise `PipelineError` with the counts by reason if too few rows were downloaded."""
    listed, downloaded = counts["listed"], counts["downloaded"]
    if downloaded and downloaded >= floor * listed:
        return
    reasons = ", ".join(f"{reason} {n}" for reason, n in counts["rejected"].items())
    worst = next((r for r in counts["rejected"] if r != "duplicate_row"), "timeout")
    raise PipelineError(
        f"Only {downloaded} of {listed} rows were downloaded ({downloaded / max(listed, 1):.1%}; "
        f"download.min_success_rate is {floor:.1%}). Rejected: {reasons}. `unclip rows CONFIG "
        f"--reason {worst}` lists them, and `unclip retry CONFIG --reason {worst}` fetches them "
        "again. Or lower "
        "download.min_success_rate: nothing that was fetched is fetched again."
    )
