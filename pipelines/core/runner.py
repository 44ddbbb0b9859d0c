"""Carries out a plan on Ray: dependency order, independent stages at the same time.

Each stage's `run` is a thread of the driver that hands its work to Ray workers; the main loop
starts stages whose inputs are there and for which the cluster has room, passes events on to the
listeners, and commits what is finished. A stage that fails stops only what depends on it.
"""

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from pipelines.core import shards, worker_group
from pipelines.core.capacity import capacity, check_capacity
from pipelines.core.cluster import ClusterSettings, connected
from pipelines.core.errors import PipelineError
from pipelines.core.events import Emit, Event, EventBus
from pipelines.core.plan import Plan, Step
from pipelines.core.provenance import provenance
from pipelines.core.resources import Resources, fits
from pipelines.core.shards import PoolSettings
from pipelines.core.stage import Artifact, Metadata, ShardWorker, Stage
from pipelines.core.store import Folder, Manifest, Store

log = logging.getLogger(__name__)

TICK_S = 0.5
A = TypeVar("A", bound=Artifact)


class StageFailedError(PipelineError):
    """One or more stages failed; what was finished stays."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a plan is carried out; none of it is part of any key."""

    resources: Mapping[str, Resources] = field(default_factory=dict)  # by stage
    retries: int = 3
    wait_s: float = 600.0
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    debug: bool = False  # print tracebacks of failed stages

    def of(self, stage: Stage[Artifact]) -> PoolSettings:
        """The settings of one stage."""
        resources = self.resources.get(stage.name, Resources())
        return PoolSettings(resources=resources, retries=self.retries, wait_s=self.wait_s)


class Listener(Protocol):
    """Somebody who wants to know: the terminal, the tracking server."""

    def started(self, step: Step) -> Mapping[str, str]:
        """A stage starts; returns links to keep in its manifest."""
        ...

    def event(self, event: Event) -> None:
        """A running stage says something."""
        ...

    def finished(self, manifest: Manifest) -> None:
        """A stage is committed."""
        ...

    def failed(self, step: Step, error: BaseException) -> None:
        """A stage failed."""
        ...


@dataclass(frozen=True)
class StageContext:
    """The engine's `Context` of one running stage."""

    stage: Stage[Artifact]
    folder: Folder
    emit: Emit
    settings: PoolSettings
    store: Store

    def load(self, stage: Stage[A]) -> A:
        """The artifact of a dependency."""
        return load_artifact(self.store, stage)

    def earlier(self) -> Sequence[Manifest]:
        """The finished results of stages of this name, the newest first."""
        return self.store.manifests(self.stage.name)

    def folder_of(self, manifest: Manifest) -> Folder:
        """Where a result is stored."""
        return self.store.folder(manifest.stage, manifest.key)

    def map_shards(
        self, worker: ShardWorker, items: Mapping[str, Any], *, schema: pa.Schema, unit: str
    ) -> dict[str, Metadata]:
        """Make every shard that is not there yet."""
        return shards.map_shards(
            worker,
            items,
            stage=self.stage.name,
            folder=self.folder,
            schema=schema,
            unit=unit,
            emit=self.emit,
            settings=self.settings,
        )

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run one function in a worker."""
        return shards.call(function, *args, stage=self.stage.name, settings=self.settings)

    def train(
        self, function: Callable[[Mapping[str, Any]], None], config: Mapping[str, Any]
    ) -> None:
        """Run the function on all workers together."""
        worker_group.run_worker_group(
            function,
            config,
            stage=self.stage.name,
            folder=self.folder,
            emit=self.emit,
            settings=self.settings,
        )


def load_artifact(store: Store, stage: Stage[A]) -> A:
    """The artifact of a finished stage; raises `PipelineError` where it has not run."""
    manifest = store.manifest(stage.name, stage.key)
    if manifest is None:
        raise PipelineError(f"{stage.label} is not in {store.root}. Run the pipeline first.")
    return stage.artifact(folder=store.folder(stage.name, stage.key), **manifest.metadata)  # type: ignore[return-value]


def run_plan(
    plan: Plan, store: Store, settings: RunSettings, listeners: Sequence[Listener] = ()
) -> None:
    """Do what the plan says. Raises `PipelineError`; starts no Ray where nothing is to do."""
    if not plan.to_run:
        return
    store.check_writable()
    with connected(settings.cluster):
        requests = {s.stage.name: settings.of(s.stage).resources for s in plan.to_run}
        check_capacity(plan, requests)
        _Run(plan, store, settings, listeners).loop()


class _Run:
    """One run under way."""

    def __init__(
        self, plan: Plan, store: Store, settings: RunSettings, listeners: Sequence[Listener]
    ) -> None:
        self.store, self.settings, self.listeners = store, settings, listeners
        self.pending = list(plan.to_run)
        self.unfinished = {step.stage.name for step in plan.to_run}
        self.running: dict[Future[Manifest], Step] = {}
        self.failures: dict[str, BaseException] = {}
        self.bus = EventBus.start()

    def loop(self) -> None:
        threads = ThreadPoolExecutor(max_workers=max(1, len(self.pending)))
        try:
            while self.running or self._startable():
                for step in self._startable():
                    self._start(step, threads)
                done, _ = wait(self.running, timeout=TICK_S, return_when=FIRST_COMPLETED)
                self._pass_on_events()
                for future in done:
                    self._finish(future)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        if self.failures:
            raise self._failure()

    def _startable(self) -> list[Step]:
        """Stages whose inputs are there and that fit beside those that run, in the plan's order."""
        free = dict(capacity())
        for step in self.running.values():
            _take(free, self._holds(step))
        chosen = []
        for step in self.pending:
            ready = not any(d.name in self.unfinished for d in step.stage.dependencies.values())
            if ready and fits(self._holds(step), free):
                _take(free, self._holds(step))
                chosen.append(step)
        return chosen

    def _holds(self, step: Step) -> dict[str, float]:
        """What a stage occupies: all its workers, or as many as the cluster has room for.

        So a stage whose resource was lost during the run starts, waits, and says what is missing.
        """
        total, there = self.settings.of(step.stage).resources.total(), capacity()
        return {name: min(amount, there.get(name, 0.0)) for name, amount in total.items()}

    def _start(self, step: Step, threads: ThreadPoolExecutor) -> None:
        self.pending.remove(step)
        links: dict[str, str] = {}
        for listener in self.listeners:
            with _harmless(listener):
                links.update(listener.started(step))
        self.running[threads.submit(self._work, step, links)] = step

    def _work(self, step: Step, links: Mapping[str, str]) -> Manifest:
        stage, folder = step.stage, self.store.folder(step.stage.name, step.stage.key)
        aside = self.store.folder(stage.name, f"{stage.key}.replaced")
        began = time.monotonic()
        if step.forced and step.manifest:
            aside.remove()
            folder.move_to(aside)
        try:
            artifact = stage.run(
                StageContext(stage, folder, self.bus.emit, self.settings.of(stage), self.store)
            )
        except BaseException:
            if step.forced and step.manifest:  # what was there comes back
                folder.remove()
                aside.move_to(folder)
            raise
        manifest = _manifest(stage, artifact, links, time.monotonic() - began)
        committed = self.store.commit(manifest)
        aside.remove()
        return committed

    def _finish(self, future: Future[Manifest]) -> None:
        step = self.running.pop(future)
        error = future.exception()
        if error is None:
            self.unfinished.remove(step.stage.name)
            for listener in self.listeners:
                with _harmless(listener):
                    listener.finished(future.result())
            return
        self.failures[step.stage.name] = error
        if self.settings.debug:
            traceback.print_exception(error)
        for listener in self.listeners:
            with _harmless(listener):
                listener.failed(step, error)

    def _pass_on_events(self) -> None:
        for event in self.bus.take():
            for listener in self.listeners:
                with _harmless(listener):
                    listener.event(event)

    def _failure(self) -> PipelineError:
        stopped = [s.stage.name for s in self.pending]
        message = "; ".join(
            str(e) if isinstance(e, PipelineError) else f"stage {n}: {type(e).__name__}: {e}"
            for n, e in self.failures.items()
        )
        waiting = f" Not started because of it: {', '.join(stopped)}." if stopped else ""
        error = StageFailedError(
            f"{message}{waiting} What was finished stays in {self.store.root}."
        )
        error.__cause__ = next(iter(self.failures.values()))
        return error


@contextlib.contextmanager
def _harmless(listener: Listener) -> Iterator[None]:
    """Whoever only watches cannot stop the work."""
    try:
        yield
    except Exception:
        log.exception("%s failed; the work goes on", type(listener).__name__)


def _take(free: dict[str, float], amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        free[name] = free.get(name, 0) - amount


def _manifest(
    stage: Stage[Artifact], artifact: Artifact, links: Mapping[str, str], duration_s: float
) -> Manifest:
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
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=round(duration_s, 1),
    )
