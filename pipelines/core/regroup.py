"""When a training stops and starts again with other workers, and with how many.

Before a node leaves, because a spot machine is reclaimed or an autoscaler removes it, Ray drains
it: it places nothing more there, and tells the workers. A training with `min_workers` also starts
with fewer workers than it may have, and takes in more when there is room. In both cases the workers
save a checkpoint and raise `RegroupError`, and `core/worker_group.py` starts them again.

Ray Train's own elastic groups are not used; docs/adr/0022-elastic-trainings.md says why.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

import ray
from ray._private.state import state
from ray.autoscaler.sdk import request_resources
from ray.train.v2._internal.execution.context import get_train_context

from pipelines.core.capacity import places
from pipelines.core.resources import Resources
from pipelines.core.spares import start_spare

LOOK_FOR_ROOM_EVERY_S = 60.0

_lock = threading.Lock()
_wanted: dict[str, list[dict[str, float]]] = {}  # by stage: one bundle for each worker


class RegroupError(Exception):
    """Raised in a worker that has saved its progress, so that all workers start again."""


def workers_now(resources: Resources) -> int:
    """How many workers to start: as many as there is room for, but at least `min_workers`.

    Without `min_workers`, always all of them.
    """
    if resources.min_workers is None:
        return resources.workers
    return int(min(max(room(resources), resources.min_workers), resources.workers))


def room(resources: Resources) -> float:
    """How many such workers the free resources can hold now, on nodes that are not leaving."""
    return places(resources, list(_free().values()))


def nodes_with_room(resources: Resources) -> set[str]:
    """IDs of the nodes that can hold such a worker now."""
    return {node for node, free in _free().items() if places(resources, [free])}


def _free() -> dict[str, Mapping[str, float]]:
    """The free resources of each node that is not leaving, by its ID."""
    free = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    leaving = state.get_draining_nodes()
    return {node: amounts for node, amounts in free.items() if node not in leaving}


@contextlib.contextmanager
def all_workers_wanted(stage: str, resources: Resources) -> Iterator[None]:
    """Ask the autoscaler for room for all workers, also while fewer are at work."""
    if resources.min_workers is None:
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
        if self._is_elastic and not self.prepared:
            self._prepare({ray.get_runtime_context().get_node_id()})
        notice = get_train_context().preemption_context.preemption_info
        if notice is not None:
            ranks = ", ".join(map(str, notice.preempted_ranks))
            self.reason = f"the node of rank {ranks} is leaving the cluster"
        elif self._may_grow and time.monotonic() - self.looked_at >= LOOK_FOR_ROOM_EVERY_S:
            self.looked_at = time.monotonic()
            nodes = nodes_with_room(self.resources)
            if nodes and nodes <= self.prepared:  # nodes come together: one restart takes in all
                self.reason = f"there is room for more workers than {self.world_size}"
            self._prepare(nodes)
        return bool(self.reason)

    @property
    def _is_elastic(self) -> bool:
        return self.resources.min_workers is not None

    @property
    def _may_grow(self) -> bool:
        return self._is_elastic and self.rank == 0 and self.world_size < self.resources.workers

    def _prepare(self, nodes: Set[str]) -> None:
        """Start a spare process on each node that has none yet."""
        new = nodes - self.prepared
        if new:
            start_spare(node for node in ray.nodes() if node["NodeID"] in new)
        self.prepared |= new
