"""Run a stage and everything it depends on in this process, without Ray."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipelines.core.events import Event
from pipelines.core.folder import Folder
from pipelines.core.stage import Artifact, Metadata, ShardWorker, Stage, load_artifact
from pipelines.core.stage_maker import manifest_of
from pipelines.core.store import Manifest, Store
from pipelines.core.tables import check_schema

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class LocalContext:
    """The context of a stage that does all its work in this process."""

    store: Store
    folder: Folder
    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def load(self, stage: Stage[A]) -> A:
        return load_artifact(self.store, stage)

    def earlier(self) -> Sequence[Manifest]:
        return self.store.manifests(self.folder.url.rsplit("/", 2)[1])

    def folder_of(self, manifest: Manifest) -> Folder:
        return self.store.folder(manifest.stage, manifest.key)

    def map_shards(
        self, worker: ShardWorker, items: Mapping[str, Any], *, schema: pa.Schema, unit: str
    ) -> dict[str, Metadata]:
        done = {}
        for name, item in items.items():
            table, metadata = worker(item)
            check_schema(table, schema, where=name)
            write_table(self.folder, f"{name}.parquet", table)
            done[name] = {**metadata, "rows": table.num_rows}
        return done

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def train(self, function: Any, config: Mapping[str, Any]) -> None:
        raise NotImplementedError("no given stage trains")


def make(store: Store, stage: Stage[A], events: list[Event] | None = None) -> A:
    """The artifact of a stage; made first if the store does not have it."""
    if store.manifest(stage.name, stage.key) is None:
        for dependency in stage.dependencies.values():
            make(store, dependency)
        folder = store.folder(stage.name, stage.key)
        torch.set_num_threads(1)  # more threads are slower on a busy machine
        artifact = stage.run(LocalContext(store, folder, [] if events is None else events))
        store.commit(manifest_of(stage, artifact, {}, 1.0))
    return load_artifact(store, stage)


def write_table(folder: Folder, name: str, table: pa.Table) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "table.parquet"
        pq.write_table(table, local)
        folder.publish(local, name)
