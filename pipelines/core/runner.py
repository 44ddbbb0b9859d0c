"""Runs a plan on Ray: in dependency order, independent stages at the same time.

Each stage's `run` is a thread of the driver, which hands its work to Ray workers. The main loop
starts stages whose inputs are finished and for which the cluster has room, and passes events on to
the listeners. A stage that fails stops only what depends on it. A store that cannot be written, a
lost Ray and a lost lease stop the whole run at once.
"""

import contextlib
import logging
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from pipelines.core.capacity import capacity, check_capacity
from pipelines.core.cluster import Cluster, connected, in_thread
from pipelines.core.errors import (
    EXIT_ERROR,
    EXIT_WORK_LOST,
    AbortedError,
    PipelineError,
    WorkLostError,
)
from pipelines.core.event_bus import EventBus
from pipelines.core.events import Event
from pipelines.core.filesystem import StoreWriteError
from pipelines.core.lease import Leases, holder_of
from pipelines.core.plan import Plan, Step
from pipelines.core.resources import ClusterSettings, Resources, fits
from pipelines.core.shards import PoolSettings
from pipelines.core.stage import Artifact, Stage
from pipelines.core.stage_maker import OnBusy, StageBusyError, StageMaker, busy_message
from pipelines.core.store import Manifest, Store

log = logging.getLogger(__name__)

TICK_S = 0.5


class StageFailedError(PipelineError):
    """One or more stages failed; finished stages are kept."""


class StoreLostError(AbortedError):
    """The store can no longer be written, so the run was stopped."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a plan is run; none of it is part of a key."""

    resources: Mapping[str, Resources] = field(default_factory=dict)  # by stage
    retries: int = 3
    wait_s: float = 600.0  # the longest wait for resources
    on_busy: OnBusy = "wait"  # for a stage that another driver is making
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    debug: bool = False  # print tracebacks of failed stages

    def of(self, stage: Stage[Artifact]) -> PoolSettings:
        """The settings of one stage."""
        resources = self.resources.get(stage.name, Resources())
        return PoolSettings(resources=resources, retries=self.retries, wait_s=self.wait_s)


class Listener(Protocol):
    """Follows a run, as the terminal and the tracking server do."""

    def started(self, step: Step) -> Mapping[str, str]:
        """A stage starts; returns links to keep in its manifest."""
        ...

    def event(self, event: Event) -> None:
        """A running stage has sent an event."""
        ...

    def finished(self, manifest: Manifest) -> None:
        """A stage is committed."""
        ...

    def failed(self, step: Step, error: BaseException) -> None:
        """A stage failed."""
        ...


def run_plan(
    plan: Plan, store: Store, settings: RunSettings, listeners: Sequence[Listener] = ()
) -> None:
    """Run the plan's stages. Raises `PipelineError`. With no stage to run, Ray is not started.

    After an `AbortedError`, threads of stages may still wait for Ray: the process should end.
    """
    if not plan.to_run:
        return
    store.check_writable()
    store.remove_stale()
    if settings.on_busy == "leave":
        _refuse_busy(plan, store)
    with Leases(store.root) as leases, connected(settings.cluster) as cluster:
        requests = {s.stage.name: settings.of(s.stage).resources for s in plan.to_run}
        cluster.ask(lambda: check_capacity(plan, requests))
        _Run(plan, store, settings, listeners, cluster, leases).loop()


class _Run:
    """One run under way."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        settings: RunSettings,
        listeners: Sequence[Listener],
        cluster: Cluster,
        leases: Leases,
    ) -> None:
        self.store, self.settings, self.listeners = store, settings, listeners
        self.cluster, self.leases = cluster, leases
        self.pending = list(plan.to_run)
        self.unfinished = {step.stage.name for step in plan.to_run}
        self.running: dict[Future[Manifest], Step] = {}
        self.failures: dict[str, BaseException] = {}
        self.quiet: set[str] = set()  # listeners whose failure was logged
        self.stopped = threading.Event()
        self.bus = cluster.ask(EventBus.start)

    def loop(self) -> None:
        """Run all stages; raises `StageFailedError`, or `AbortedError` as soon as one occurs."""
        try:
            while self._start_stages() or self.running:
                done, _ = wait(self.running, timeout=TICK_S, return_when=FIRST_COMPLETED)
                self.cluster.check()
                self.leases.check()
                self._pass_on_events()
                for future in done:
                    self._finish(future)
        finally:
            self.stopped.set()
        if self.failures:
            raise failure_of(self.failures, [s.stage.name for s in self.pending], self.store.root)

    def _start_stages(self) -> bool:
        """Start, in order, the ready stages that fit beside the running ones.

        Returns whether any stage was started.
        """
        ready = [step for step in self.pending if self._is_ready(step)]
        if not ready:
            return False
        total = self.cluster.ask(capacity)
        free = dict(total)
        for step in self.running.values():
            _take(free, self._holds(step, total))
        chosen = []
        for step in ready:
            if fits(self._holds(step, total), free):
                _take(free, self._holds(step, total))
                chosen.append(step)
        for step in chosen:
            self._start(step)
        return bool(chosen)

    def _is_ready(self, step: Step) -> bool:
        return not any(d.name in self.unfinished for d in step.stage.dependencies.values())

    def _holds(self, step: Step, total: Mapping[str, float]) -> dict[str, float]:
        """What a stage occupies: the resources of all its workers, at most the cluster's total.

        With this limit, a stage whose resource was lost during the run starts, waits, and reports
        what is missing.
        """
        request = self.settings.of(step.stage).resources.total()
        return {name: min(amount, total.get(name, 0.0)) for name, amount in request.items()}

    def _start(self, step: Step) -> None:
        log.info("starting %s: %s", step.stage.label, step.reason)
        self.pending.remove(step)
        links: dict[str, str] = {}
        for listener in self.listeners:
            with self._harmless(listener):
                links.update(listener.started(step))
        maker = StageMaker(
            self.store, self.leases, self.bus.emit, self.stopped, self.settings.on_busy
        )
        future = in_thread(maker.make, step, links, self.settings.of(step.stage))
        self.running[future] = step

    def _finish(self, future: Future[Manifest]) -> None:
        step = self.running.pop(future)
        error = future.exception()
        if error is None:
            log.info("%s is finished", step.stage.label)
            self.unfinished.remove(step.stage.name)
            for listener in self.listeners:
                with self._harmless(listener):
                    listener.finished(future.result())
            return
        self.failures[step.stage.name] = error
        log.info("stage %s failed: %s", step.stage.name, error)
        if self.settings.debug:
            traceback.print_exception(error)
        for listener in self.listeners:
            with self._harmless(listener):
                listener.failed(step, error)
        if isinstance(error, AbortedError):
            raise error
        if isinstance(error, StoreWriteError):
            raise StoreLostError(
                f"Stage {step.stage.name} stopped, and the run with it: {error} What was finished "
                f"stays in {self.store.root}."
            ) from error

    def _pass_on_events(self) -> None:
        for event in self.cluster.ask(self.bus.take):
            for listener in self.listeners:
                with self._harmless(listener):
                    listener.event(event)

    @contextlib.contextmanager
    def _harmless(self, listener: Listener) -> Iterator[None]:
        """Log a listener's error, the first time as a warning: listeners cannot stop the work."""
        name = type(listener).__name__
        try:
            yield
        except Exception as error:
            level = logging.DEBUG if name in self.quiet else logging.WARNING
            log.log(level, "%s failed; the run continues: %s", name, error)
            log.debug("the traceback of %s", name, exc_info=True)
            self.quiet.add(name)


def failure_of(
    failures: Mapping[str, BaseException], not_started: Sequence[str], root: str
) -> StageFailedError:
    """The error of a run whose stages failed.

    Its exit code suggests another attempt only if every stage failed because workers were lost.
    """
    message = "; ".join(
        str(e) if isinstance(e, PipelineError) else f"stage {n}: {type(e).__name__}: {e}"
        for n, e in failures.items()
    )
    waiting = f" Not started because of this: {', '.join(not_started)}." if not_started else ""
    error = StageFailedError(f"{message}{waiting} What was finished stays in {root}.")
    lost = [isinstance(e, WorkLostError) for e in failures.values()]
    error.exit_code = EXIT_WORK_LOST if all(lost) else EXIT_ERROR
    return error


def _refuse_busy(plan: Plan, store: Store) -> None:
    for step in plan.to_run:
        for label in step.stage.lease_labels:
            holder = holder_of(store.root, label)
            if holder is not None:
                raise StageBusyError(busy_message(step.stage, holder))


def _take(free: dict[str, float], amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        free[name] = free.get(name, 0) - amount
