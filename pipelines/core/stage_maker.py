"""Makes one stage in a thread of the driver: its lease, its context, its manifest."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, TypeVar

import pyarrow as pa

from pipelines.core import shards
from pipelines.core.errors import PipelineError
from pipelines.core.events import Emit, Note
from pipelines.core.filesystem import StoreError
from pipelines.core.folder import Folder
from pipelines.core.lease import Holder, Leases
from pipelines.core.plan import Step
from pipelines.core.provenance import provenance
from pipelines.core.resources import Resources
from pipelines.core.shard_folder import (
    Existing,
    ShardFolder,
    existing_shards,
    own_shards,
    shared_shards,
)
from pipelines.core.shard_records import ShardRecord, new_version, publish
from pipelines.core.shards import PoolSettings
from pipelines.core.stage import Artifact, ShardWorker, Stage, load_artifact
from pipelines.core.store import Header, Manifest, Store

log = logging.getLogger(__name__)

FRESH = ".fresh.json"  # beside a result that --force replaces: the version of the new shards
ASK_AGAIN_S = 2.0  # for a lease that another driver holds
OnBusy = Literal["wait", "leave"]  # what to do about a stage that another driver is making
A = TypeVar("A", bound=Artifact)


class StageBusyError(PipelineError):
    """Another driver is making a stage, and this run does not wait for it."""


@dataclass(frozen=True)
class StageContext:
    """The engine's `Context` of one running stage."""

    stage: Stage[Artifact]
    folder: Folder
    emit: Emit
    settings: PoolSettings
    store: Store
    is_forced: bool = False  # start afresh, without earlier results
    fresh: str = ""  # version of the shards that replace those of a finished result
    used: list[ShardRecord] = field(default_factory=list)  # shared shards of the result

    @property
    def resources(self) -> Resources:
        """Those of each worker of the stage, and their number."""
        return self.settings.resources

    def load(self, stage: Stage[A]) -> A:
        """The artifact of a dependency."""
        return load_artifact(self.store, stage)

    def earlier(self) -> Sequence[Manifest]:
        """The finished results that the work may start from, the newest first."""
        return () if self.is_forced else self.store.manifests(self.stage.name)

    def folder_of(self, result: Header) -> Folder:
        """Where a result is stored."""
        return self.store.folder(result.stage, result.key)

    def existing(self, made_from: Mapping[str, Any]) -> dict[str, ShardRecord]:
        """The shared shards that exist already."""
        return self._shared(made_from).find()

    def map_shards(
        self,
        worker: ShardWorker,
        items: Mapping[str, Any],
        *,
        schema: pa.Schema,
        unit: str,
        made_from: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> dict[str, ShardRecord]:
        """Make every missing shard; shared with other results if `made_from` is given."""
        if made_from is None:
            where = own_shards(self.folder, items)
        else:
            where = self._shared(made_from, versions or {})
        records = self._make_shards(worker, items, where, schema, unit)
        if made_from is not None:
            self.used.extend(records.values())
        return records

    def _make_shards(
        self,
        worker: ShardWorker,
        items: Mapping[str, Any],
        where: ShardFolder,
        schema: pa.Schema,
        unit: str,
    ) -> dict[str, ShardRecord]:
        """The records of all shards; the missing ones are made on Ray."""
        return shards.map_shards(
            worker,
            items,
            where,
            stage=self.stage.name,
            schema=schema,
            unit=unit,
            emit=self.emit,
            settings=self.settings,
        )

    def _shared(
        self, made_from: Mapping[str, Any], versions: Mapping[str, str] | None = None
    ) -> ShardFolder:
        oldest = dict.fromkeys(made_from, self.fresh) if self.fresh else versions
        return shared_shards(self.stage, self.folder, self._existing, made_from, oldest)

    @cached_property
    def _existing(self) -> Existing:
        """The shared shards as the stage began, which makes no shard twice."""
        return existing_shards(self.store, self.stage)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run one function in a worker."""
        return shards.call(function, *args, stage=self.stage.name, settings=self.settings)

    def train(
        self, function: Callable[[Mapping[str, Any]], None], config: Mapping[str, Any]
    ) -> None:
        """Run the function on all workers together."""
        from pipelines.core import worker_group  # ray.train.torch takes 4 s to import

        worker_group.run_worker_group(
            function,
            config,
            stage=self.stage.name,
            folder=self.folder,
            emit=self.emit,
            settings=self.settings,
        )


@dataclass(frozen=True)
class StageMaker:
    """Makes the stages of one run, with what they share."""

    store: Store
    leases: Leases
    emit: Emit
    stopped: threading.Event  # set once the run has ended
    on_busy: OnBusy

    def make(self, step: Step, links: Mapping[str, str], settings: PoolSettings) -> Manifest:
        """Make the stage while holding its leases, unless another driver has made it meanwhile.

        Raises `StageBusyError`, `LeaseLostError`, or what the stage raises.
        """
        stage = step.stage
        try:
            for label in stage.lease_labels:
                self._acquire(stage, label)
            other = None if step.forced else self.store.manifest(stage.name, stage.key)
            if other is not None and not self.store.missing_outputs(other):
                self.emit(Note(stage.name, "was finished by another run"))
                return other
            return self._run(step, links, settings)
        finally:
            for label in stage.lease_labels:
                self.leases.release(label)

    def _acquire(self, stage: Stage[Artifact], label: str) -> None:
        """Acquire a lease of the stage, or wait. Raises `StageBusyError` if on_busy="leave"."""
        announced = None
        while (holder := self.leases.acquire(label)) is not None:
            if self.on_busy == "leave":
                raise StageBusyError(busy_message(stage, holder))
            if holder.token != announced:
                announced = holder.token
                self.emit(Note(stage.name, f"waits: {holder} is making it"))
            if self.stopped.wait(ASK_AGAIN_S):
                raise PipelineError(f"Stage {stage.name} was not started: the run has stopped.")

    def _run(self, step: Step, links: Mapping[str, str], settings: PoolSettings) -> Manifest:
        stage, folder = step.stage, self.store.folder(step.stage.name, step.stage.key)
        aside = self.store.folder(stage.name, f"{stage.key}.replaced")
        began = time.monotonic()
        folder.remove_stale()
        if step.forced and step.manifest is not None:
            aside.remove()
            aside.write_json(FRESH, new_version())
            folder.move_to(aside)
        # A forced stage that was interrupted goes on, also without --force.
        fresh = aside.read_json(FRESH) if aside.exists(FRESH) else ""
        is_forced = step.forced or bool(fresh)
        ctx = StageContext(stage, folder, self.emit, settings, self.store, is_forced, fresh)
        try:
            artifact = stage.run(ctx)
            if ctx.used:
                publish(folder, ctx.used)
            for label in stage.lease_labels:
                self.leases.verify(label)
        except BaseException:
            if fresh and stage.label in self.leases.held:
                _bring_back(folder, aside)
            raise
        took_s = time.monotonic() - began
        committed = self.store.commit(manifest_of(stage, artifact, links, took_s, ctx.used))
        aside.remove()
        return committed


def busy_message(stage: Stage[Artifact], holder: Holder) -> str:
    """Who is making the stage, and how to wait for it."""
    return (
        f"Stage {stage.name} is being made by {holder}. Run again when it is done, or wait for it "
        "with run.on_busy=wait."
    )


def _bring_back(folder: Folder, aside: Folder) -> None:
    """Put the earlier result of a forced stage back in its place."""
    try:
        folder.remove()
        aside.move_to(folder)
        aside.remove()
    except StoreError as error:  # the stage's own error matters more
        log.warning("the earlier result stays in %s: %s", aside.url, error)


def manifest_of(
    stage: Stage[Artifact],
    artifact: Artifact,
    links: Mapping[str, str],
    duration_s: float,
    used: Iterable[ShardRecord] = (),
) -> Manifest:
    """The record of a stage that was just made."""
    return Manifest(
        stage=stage.name,
        key=stage.key,
        version=stage.version,
        description=stage.description,
        dependencies={path: d.label for path, d in stage.dependencies.items()},
        metadata=artifact.metadata(),
        outputs={},
        provenance=provenance(),
        links=links,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        duration_s=round(duration_s, 1),
        shards={file: size for record in used for file, size in record.files.items()},
    )
