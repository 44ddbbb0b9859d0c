"""Run a stage and everything it depends on in this process, without Ray."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipelines.core.events import Event
from pipelines.core.folder import Folder
from pipelines.core.resources import Resources
from pipelines.core.shard_folder import ShardFolder
from pipelines.core.shard_records import ShardRecord, new_version, publish
from pipelines.core.shards import PoolSettings, make_shard
from pipelines.core.stage import Artifact, ShardEntry, ShardWorker, Stage, load_artifact
from pipelines.core.stage_maker import StageContext, manifest_of
from pipelines.core.store import Store

A = TypeVar("A", bound=Artifact)


class LocalContext(StageContext):
    """The context of a stage that does all its work in this process."""

    def _make_shards(
        self,
        worker: ShardWorker,
        items: Mapping[str, Any],
        where: ShardFolder,
        schema: pa.Schema,
        unit: str,
    ) -> dict[str, ShardRecord]:
        found = where.find()
        return {
            name: found.get(name)
            or make_shard(worker, items[name], where.folder, where.new_stem(name), schema)
            for name in items
        }

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def train(self, function: Any, config: Mapping[str, Any]) -> None:
        raise NotImplementedError("no given stage trains")


def make(
    store: Store, stage: Stage[A], events: list[Event] | None = None, *, force: bool = False
) -> A:
    """The artifact of a stage; made first if the store does not have it.

    force: make this stage again, with new versions of its shards.
    """
    if force or store.manifest(stage.name, stage.key) is None:
        for dependency in stage.dependencies.values():
            make(store, dependency)
        torch.set_num_threads(1)  # more threads are slower on a busy machine
        ctx = context(store, stage, events, force=force)
        artifact = stage.run(ctx)
        if ctx.used:
            publish(ctx.folder, ctx.used)
        store.commit(manifest_of(stage, artifact, {}, 1.0, ctx.used))
    return load_artifact(store, stage)


def context(
    store: Store,
    stage: Stage[Any],
    events: list[Event] | None = None,
    *,
    folder: Folder | None = None,
    force: bool = False,
    kind: type[LocalContext] = LocalContext,
) -> LocalContext:
    """What the stage runs in; by default, it writes to its folder in the store."""
    return kind(
        stage,
        folder or store.folder(stage.name, stage.key),
        (events if events is not None else []).append,
        PoolSettings(resources=Resources(), retries=0, wait_s=1.0),
        store,
        force,
        new_version() if force else "",
    )


def work(worker: ShardWorker, item: Any, schema: pa.Schema) -> tuple[pa.Table, dict[str, Any]]:
    """The rows and the metadata that a worker makes of one item."""
    table, metadata, _ = work_with_files(worker, item, schema)
    return table, metadata


def work_with_files(
    worker: ShardWorker, item: Any, schema: pa.Schema
) -> tuple[pa.Table, dict[str, Any], dict[str, pa.Table]]:
    """The same, and the further tables of the shard by their names."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Folder(scratch)
        record = make_shard(worker, item, folder, "shard", schema)
        others = {
            file.removeprefix("shard.").removesuffix(".parquet"): folder.read_table(file)
            for file in list(record.files)[1:]
        }
        return folder.read_table("shard.parquet", schema=schema), dict(record.metadata), others


def own_entries(rows: Mapping[str, int]) -> dict[str, ShardEntry]:
    """Entries of shards in a stage's own folder."""
    return {name: ShardEntry(count, digest=name) for name, count in rows.items()}


def write_table(folder: Folder, name: str, table: pa.Table) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "table.parquet"
        pq.write_table(table, local)
        folder.publish(local, name)
