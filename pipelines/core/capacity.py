"""The resources of a cluster: now, and with every node that its autoscaler may add."""

import logging
from collections.abc import Mapping, Sequence

import ray
from ray._private.state import state

from pipelines.core.errors import PipelineError
from pipelines.core.plan import Plan
from pipelines.core.resources import GIB, Resources

log = logging.getLogger(__name__)


def capacity() -> Mapping[str, float]:
    """The total of each resource: what the cluster has, or what its autoscaler may grow it to."""
    limits = state.get_max_resources_from_cluster_config() or {}
    present: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {n: max(present.get(n, 0), limits.get(n, 0)) for n in {*present, *limits}}


def nodes() -> list[Mapping[str, float]]:
    """The resources of every node that the autoscaler may start; without one, of live nodes."""
    config = state.get_cluster_config()
    groups = config.node_group_configs if config else []
    if groups:
        return [dict(g.resources) for g in groups for _ in range(g.max_count)]
    return [n["Resources"] for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]


def describe_capacity() -> str:
    """The free and total resources, as a sentence for an error message."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    listed = ", ".join(
        f"{name} {free.get(name, 0):g} of {amount:g}"
        for name, amount in sorted(capacity().items())
        if not name.startswith(("node:", "memory", "object_store_memory")) and "_group_" not in name
    )
    return f"Free on the cluster: {listed}."


def check_capacity(plan: Plan, requests: Mapping[str, Resources]) -> None:
    """Raise `PipelineError` if the cluster's nodes can never hold a stage's request.

    A training needs room for all its workers at once, or for `min_workers` of them if that is set.
    Any other stage needs room for one.
    """
    all_nodes = nodes()
    log.debug("the cluster has %d nodes", len(all_nodes))
    short = []
    for step in plan.to_run:
        request = requests[step.stage.name]
        wanted = request.fewest if step.stage.worker_group else 1
        if places(request, all_nodes) < wanted:
            short.append(f"{step.stage.name} ({_shortage(request, wanted, all_nodes)})")
    if short:
        raise PipelineError(
            f"The cluster is too small for {'; '.join(short)}. Nothing was started. "
            "Ask for less with run.resources.<stage>, or add nodes."
        )


def places(request: Resources, nodes: Sequence[Mapping[str, float]]) -> float:
    """How many of the request's workers fit on the nodes; a worker cannot span two nodes."""
    return sum(
        min(
            ((node.get(name, 0) + 1e-6) // amount for name, amount in request.per_worker().items()),
            default=float("inf"),
        )
        for node in nodes
    )


def _shortage(request: Resources, wanted: int, nodes: Sequence[Mapping[str, float]]) -> str:
    asked = ", ".join(
        f"{name}: {_readable(name, amount)}" for name, amount in request.per_worker().items()
    )
    largest = ", ".join(
        f"{name}: {_readable(name, max((node.get(name, 0) for node in nodes), default=0))}"
        for name in request.per_worker()
    )
    return (
        f"{wanted} of its workers, each with {asked}; there is room for "
        f"{places(request, nodes):g}, and the most on one node is {largest}"
    )


def _readable(name: str, amount: float) -> str:
    return f"{amount / GIB:.1f} GiB" if name == "memory" else f"{amount:g}"
