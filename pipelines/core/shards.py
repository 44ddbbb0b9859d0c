"""Shards, the unit of work and of resume, made by a pool of Ray actors.

A rerun makes only the shards that do not exist yet. An actor gets work only once it is up, so
actors that wait for resources delay nothing. An actor that dies is replaced, and another one makes
its shard.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from pipelines.core.capacity import describe_capacity
from pipelines.core.errors import PipelineError, WorkLostError, first_line
from pipelines.core.events import Emit, Note, Progress
from pipelines.core.folder import Folder
from pipelines.core.resources import Resources
from pipelines.core.shard_folder import ShardFolder
from pipelines.core.shard_records import Journal, ShardRecord
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import ShardWorker

log = logging.getLogger(__name__)

POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """A pool's resources, and what it does if they are taken or its workers die."""

    resources: Resources
    retries: int  # of one shard, after its worker died
    wait_s: float  # the longest wait while no worker is up


class _ShardActor:
    """Holds a stage's worker and makes one shard at a time."""

    def __init__(self, worker: ShardWorker, folder: Folder, schema: pa.Schema) -> None:
        self.worker, self.folder, self.schema = worker, folder, schema

    def start(self) -> None:
        """No-op that shows whether the process is up."""

    def make(self, name: str, stem: str, item: Any) -> ShardRecord:
        log.debug("making shard %s, %s of %s", name, stem, self.folder.url)
        return make_shard(self.worker, item, self.folder, stem, self.schema)


def make_shard(
    worker: ShardWorker, item: Any, folder: Folder, stem: str, schema: pa.Schema
) -> ShardRecord:
    """Make and publish one shard in this process."""
    with ShardWriter(folder, stem, schema) as out:
        return out.finish(worker(item, out))


class ShardPool:
    """Makes shards of one stage on as many actors as its resources allow."""

    def __init__(
        self,
        stage: str,
        emit: Emit,
        settings: PoolSettings,
        new_actor: Callable[[], Any],
        journal: Journal,
    ) -> None:
        self.stage, self.emit, self.settings, self.new_actor = stage, emit, settings, new_actor
        self.journal = journal
        self.calls: dict[Any, tuple[Any, str | None]] = {}  # call → its actor and shard
        self.idle: list[Any] = []
        self.deaths: Counter[str] = Counter()
        self.done: dict[str, ShardRecord] = {}
        self.failure: Exception | None = None  # the first; shards under way still finish

    def run(
        self, items: Mapping[str, Any], stems: Mapping[str, str], *, unit: str
    ) -> dict[str, ShardRecord]:
        """Make the shards of these names; the other items were made earlier."""
        queue = deque(stems)
        earlier, total = len(items) - len(queue), len(items)
        answered_at = time.monotonic()
        for _ in range(min(self.settings.resources.workers, len(queue))):
            self._start_actor()
        try:
            while queue or any(name for _, name in self.calls.values()):
                while self.idle and queue:
                    name, actor = queue.popleft(), self.idle.pop()
                    self.calls[actor.make.remote(name, stems[name], items[name])] = (actor, name)
                finished, _ = ray.wait(list(self.calls), num_returns=1, timeout=POLL_S)
                for call in finished:
                    self._finish(call, queue)
                if finished:
                    answered_at = time.monotonic()
                    self.emit(Progress(self.stage, earlier + len(self.done), total, unit))
                elif self._waits() and time.monotonic() - answered_at > self.settings.wait_s:
                    raise WorkLostError(_waited(self.stage, self.settings))
        finally:
            for actor in [*self.idle, *(actor for actor, _ in self.calls.values())]:
                ray.kill(actor)
            self.journal.write()
        if self.failure:
            raise self.failure
        return self.done

    def _start_actor(self) -> None:
        actor = self.new_actor()
        self.calls[actor.start.remote()] = (actor, None)

    def _finish(self, call: Any, queue: "deque[str]") -> None:
        actor, name = self.calls.pop(call)
        try:
            record = ray.get(call)
        except RayTaskError as error:
            self._fail(_cause(error, self.stage, name), queue)
        except RayError as error:  # the process, its node or its memory is gone
            self._replace(name, error, queue)
            return
        else:
            if name is not None:
                self.done[name] = record
                self.journal.add(record)
        self.idle.append(actor)

    def _fail(self, error: Exception, queue: "deque[str]") -> None:
        """Start no further shard, and kill the actors that are not up yet."""
        self.failure = self.failure or error
        queue.clear()
        for call in [c for c, (_, name) in self.calls.items() if name is None]:
            ray.kill(self.calls.pop(call)[0])

    def _replace(self, name: str | None, error: RayError, queue: "deque[str]") -> None:
        where = f"at shard {name}" if name else "before its first shard"
        self.deaths[where] += 1
        if self.failure:
            return
        if self.deaths[where] > self.settings.retries:
            lost = WorkLostError(
                f"Stage {self.stage}: a worker died {where} {self.deaths[where]} times, "
                f"last with: {first_line(error)}. If it ran out of memory, give the stage more "
                f"with run.resources.{self.stage}.memory_gib. Run again to resume."
            )
            self._fail(lost, queue)
            return
        self.emit(Note(self.stage, f"a worker died {where}; another one takes over"))
        if name is not None:
            queue.appendleft(name)
        self._start_actor()

    def _waits(self) -> bool:
        """Whether no actor is up: all of them, first ones or replacements, wait for resources."""
        return not self.idle and all(name is None for _, name in self.calls.values())


def map_shards(
    worker: ShardWorker,
    items: Mapping[str, Any],
    where: ShardFolder,
    *,
    stage: str,
    schema: pa.Schema,
    unit: str,
    emit: Emit,
    settings: PoolSettings,
) -> dict[str, ShardRecord]:
    """Make the shard of every item that does not exist or is damaged.

    Returns the records of all shards, in the items' order.
    """
    existing = where.find()
    missing = {name: where.new_stem(name) for name in items if name not in existing}
    if existing:
        emit(Note(stage, f"{len(existing)} of {len(items)} {unit} are already made"))
    log.info("%s: %d of %d shards have to be made", stage, len(missing), len(items))
    emit(Progress(stage, len(existing), len(items), unit))
    made: dict[str, ShardRecord] = {}
    journal = Journal(where.result)
    for record in existing.values():
        if record.stem not in where.existing.known:  # it was found by its file
            journal.add(record)
    journal.write()
    if missing:
        actor = ray.remote(_ShardActor).options(**settings.resources.actor_options())
        shared = ray.put(worker)
        pool = ShardPool(
            stage, emit, settings, lambda: actor.remote(shared, where.folder, schema), journal
        )
        made = pool.run(items, missing, unit=unit)
    return {name: made[name] if name in made else existing[name] for name in items}


def call(function: Callable[..., Any], *args: Any, stage: str, settings: PoolSettings) -> Any:
    """Run one function in a worker with the stage's resources; retry if the worker dies."""
    options = settings.resources.actor_options()
    probe = ray.remote(_answer).options(**options).remote()
    if not ray.wait([probe], timeout=settings.wait_s)[0]:
        ray.cancel(probe)
        raise WorkLostError(_waited(stage, settings))
    task = ray.remote(function).options(max_retries=settings.retries, **options)
    try:
        return ray.get(task.remote(*args))
    except RayTaskError as error:
        raise _cause(error, stage, None) from error
    except RayError as error:  # the process, its node or its memory is gone
        raise WorkLostError(f"Stage {stage}: its worker died: {first_line(error)}.") from error


def _answer() -> None:
    """No-op that shows whether a worker was scheduled."""


def _cause(error: RayTaskError, stage: str, shard: str | None) -> Exception:
    """The worker's error if it is a `PipelineError`, else a `PipelineError` that describes it."""
    if isinstance(error.cause, PipelineError):
        return error.cause
    where = f"Stage {stage}" + (f", shard {shard}" if shard else "")
    cause = error.cause or error
    return PipelineError(f"{where}: {type(cause).__name__}: {first_line(cause)}")


def _waited(stage: str, settings: PoolSettings) -> str:
    asked = settings.resources.per_worker()
    return (
        f"Stage {stage} waited {settings.wait_s:.0f} s for a worker with {asked} and got none. "
        f"{describe_capacity()} "
        f"Ask for less with run.resources.{stage}, add nodes, or raise run.wait_s."
    )
