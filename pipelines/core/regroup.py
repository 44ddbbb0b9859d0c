"""When a training stops and starts again with other workers, and with how many.

Before a node leaves, because a spot machine is reclaimed or an autoscaler removes it, Ray drains
it: it places nothing more there, and tells the workers. A training with `min_workers` also starts
with fewer workers than it may have, and takes in more when there is room. Nodes often come several
at a time, so it waits until a minute has passed in which no further node came. In both cases the
workers save a checkpoint and raise `RegroupError`, and `core/worker_group.py` starts them again.

Ray Train's own elastic groups are not used; docs/adr/0022-elastic-trainings.md says why.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import ray
from ray._private.state import state
from ray.autoscaler.sdk import request_resources
from ray.train.v2._internal.execution.context import get_train_context

from pipelines.core.capacity import places
from pipelines.core.resources import Resources
from pipelines.core.spares import start_spares

LOOK_FOR_ROOM_EVERY_S = 60.0
SETTLE_S = 0.5

_lock = threading.Lock()
_wanted: dict[str, list[dict[str, float]]] = {}  # by stage: one bundle for each worker


class RegroupError(Exception):
    """Raised in a worker that has saved its progress, so that all workers start again."""


def workers_now(resources: Resources) -> int:
    """How many workers to start: as many as there is room for, but at least `min_workers`.

    Without `min_workers`, always all of them.
    """
    if not resources.is_elastic:
        return resources.workers
    found, before = room(resources), -1.0
    while before != found < resources.workers:  # nodes report late what the last workers released
        time.sleep(SETTLE_S)
        before, found = found, room(resources)
    return int(min(max(found, resources.fewest), resources.workers))


def room(resources: Resources) -> float:
    """How many such workers the free resources can hold now, on nodes that are not leaving."""
    return sum(room_by_node(resources).values())


def room_by_node(resources: Resources) -> dict[str, float]:
    """The same for each node that has room, by the node's ID."""
    free = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    leaving = state.get_draining_nodes()
    found = {node: places(resources, [free[node]]) for node in free if node not in leaving}
    return {node: workers for node, workers in found.items() if workers}


@contextlib.contextmanager
def all_workers_wanted(stage: str, resources: Resources) -> Iterator[None]:
    """Ask the autoscaler for room for all workers, also while fewer are at work."""
    if not resources.is_elastic:
        yield
        return
    _ask_autoscaler(stage, [resources.per_worker()] * resources.workers)
    try:
        yield
    finally:
        _ask_autoscaler(stage, [])


def _ask_autoscaler(stage: str, bundles: list[dict[str, float]]) -> None:
    with _lock:  # each request replaces the last one, so it names the workers of all stages
        _wanted[stage] = bundles
        request_resources(bundles=[bundle for of_stage in _wanted.values() for bundle in of_stage])


@dataclass
class Regroup:
    """Whether the workers should stop and start again; each rank calls it between steps.

    It also has spare processes started, in which the next workers will run (`core/spares.py`).

    It says what this rank knows, so the loop must agree on it over all ranks. Ray's public
    `get_preemption_info` does that too, but it waits for all ranks at every call.
    """

    resources: Resources
    rank: int
    world_size: int
    reason: str = ""
    looked_at: float = field(default_factory=time.monotonic)
    prepared: set[str] = field(default_factory=set)  # IDs of nodes that have a spare process

    def __call__(self) -> bool:
        """True if a node of any rank leaves or, on rank 0, if there is room for more workers."""
        if self.resources.is_elastic and not self.prepared:
            self._prepare({ray.get_runtime_context().get_node_id(): 1})
        notice = get_train_context().preemption_context.preemption_info
        if notice is not None:
            ranks = ", ".join(map(str, notice.preempted_ranks))
            self.reason = f"the node of rank {ranks} is leaving the cluster"
        elif self._may_grow and time.monotonic() - self.looked_at >= LOOK_FOR_ROOM_EVERY_S:
            self.looked_at = time.monotonic()
            found = room_by_node(self.resources)
            # While more nodes come, it waits: one restart takes in all of them.
            if found and self.prepared.issuperset(found):
                self.reason = f"there is room for more workers than {self.world_size}"
            self._prepare(found)
        return bool(self.reason)

    @property
    def _may_grow(self) -> bool:
        resources = self.resources
        return resources.is_elastic and self.rank == 0 and self.world_size < resources.workers

    def _prepare(self, workers: Mapping[str, float]) -> None:
        """Start spare processes for so many workers on each node that has none yet, by its ID."""
        for node in workers.keys() - self.prepared:
            start_spares(node, int(min(workers[node], self.resources.workers)))
        self.prepared |= workers.keys()
