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
from collections.abc import Iterator
from dataclasses import dataclass, field

from ray._private.state import state
from ray.autoscaler.sdk import request_resources
from ray.train.v2._internal.execution.context import get_train_context

from pipelines.core.capacity import places
from pipelines.core.resources import Resources

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
    free = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    leaving = state.get_draining_nodes()
    return places(resources, [free[node] for node in free if node not in leaving])


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

    def __call__(self) -> bool:
        """True if a node of any rank leaves or, on rank 0, if there is room for more workers."""
        notice = get_train_context().preemption_context.preemption_info
        if notice is not None:
            ranks = ", ".join(map(str, notice.preempted_ranks))
            self.reason = f"the node of rank {ranks} is leaving the cluster"
        elif self._may_grow() and time.monotonic() - self.looked_at >= LOOK_FOR_ROOM_EVERY_S:
            self.looked_at = time.monotonic()
            if room(self.resources):
                self.reason = f"there is room for more workers than {self.world_size}"
        return bool(self.reason)

    def _may_grow(self) -> bool:
        resources = self.resources
        is_elastic = resources.min_workers is not None
        return is_elastic and self.rank == 0 and self.world_size < resources.workers
