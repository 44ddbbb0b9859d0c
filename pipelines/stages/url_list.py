"""Read the list of URLs and cut it into slices, the units of work of all later stages."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts import ListShards
from pipelines.artifacts.schema import SLICES
from pipelines.core.errors import PipelineError
from pipelines.core.shard_records import ShardRecord
from pipelines.core.stage import Artifact, Context, Outlook, ShardEntry, Stage
from pipelines.core.store import Store
from pipelines.core.tables import read_table
from pipelines.data.slices import Cutter, CutWorker, slice_digest
from pipelines.data.sources import SourceConfig, find_source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UrlList(Stage[ListShards]):
    """The list, cut by content: an edit changes only the slices around it."""

    kind: ClassVar[str] = "list"
    artifact: ClassVar[type[Artifact]] = ListShards

    source: SourceConfig

    def digests(self) -> Mapping[str, str]:
        """The content of the list's files, in any order."""
        return {"urls": find_source(self.source).digest()}

    def check(self) -> None:
        """Raise `PipelineError` or `ConfigError` if the list cannot be used."""
        find_source(self.source).check()

    def foresee(self, store: Store, inputs: Mapping[str, Outlook], scratch: Path) -> Outlook:  # noqa: ARG002
        """Cut the list as a run would; slices of earlier results are old, new ones are kept."""
        old, shared = self._earlier_slices(store), store.folder(self.name, self.key).shared()
        rows, urls = {}, {name: shared.file(f"{entry.stem}.parquet") for name, entry in old.items()}
        source = find_source(self.source)
        for file in source.files():
            for table in Cutter(self.source.rows_per_shard).slices(source.batches(file)):
                name = slice_digest(table)
                rows[name] = table.num_rows
                if name not in old:
                    path = scratch / f"{name}.parquet"
                    pq.write_table(table, path)
                    urls[name] = str(path)
        return Outlook(rows, {name: old[name] for name in rows if name in old}, urls)

    def _earlier_slices(self, store: Store) -> dict[str, ShardEntry]:
        """The slices of all results in the store, by name."""
        return {
            name: ShardEntry(*entry)
            for manifest in store.manifests(self.name)
            for name, entry in manifest.metadata["shards"].items()
        }

    def run(self, ctx: Context) -> ListShards:
        """Cut each file; a file that was cut before is not read. Raises `PipelineError`."""
        source = find_source(self.source)
        files = source.files()
        items = {file.digest: file for file in files}
        records = ctx.map_shards(
            CutWorker(self.source),
            items,
            schema=SLICES,
            unit="files",
            made_from={digest: digest for digest in items},
        )
        self._check_digest(source.digest())
        shards: dict[str, ShardEntry] = {}
        listed = 0
        for file in files:
            record = records[file.digest]
            slices = read_table(ctx.folder.shared().file(f"{record.stem}.parquet"), schema=SLICES)
            listed += sum(slices["rows"].to_pylist())
            shards |= slices_of(record, slices)
        if not listed:
            raise PipelineError(f"The list {self.source.urls} has no rows. Give at least one URL.")
        repeated = listed - sum(entry.rows for entry in shards.values())
        log.info("%d rows in %d slices, %d of them repeated", listed, len(shards), repeated)
        counts = {"listed": listed, "rejected": {"duplicate_row": repeated} if repeated else {}}
        return ListShards(ctx.folder, shards, counts, dict(self.source.columns or {}))

    def _check_digest(self, now: str) -> None:
        """Raise `PipelineError` if the list is no longer the one that the key names."""
        if now != self.description["digests"]["urls"]:
            raise PipelineError(
                f"The list {self.source.urls} has changed since the run began, so nothing of it "
                "was used. Run again when it is complete."
            )


def slices_of(record: ShardRecord, slices: pa.Table) -> dict[str, ShardEntry]:
    """The slices of one file, by name."""
    rows = zip(slices["name"].to_pylist(), slices["rows"].to_pylist(), strict=True)
    return {name: ShardEntry(count, name, f"{record.stem}.{name}") for name, count in rows}
