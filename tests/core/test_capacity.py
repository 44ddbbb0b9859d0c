import re

import pytest

from pipelines.core import capacity
from pipelines.core.capacity import check_capacity, places
from pipelines.core.errors import PipelineError
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import Resources
from pipelines.core.store import Store
from tests.core.toys import Count, Walk

TWO_NODES = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}]


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"),
    [(1, 1, 8), (1, 3, 2), (1, 8, 0), (3, 0, 4), (0.5, 0, 32), (0, 0.1, 80)],
)
def test_no_worker_spans_two_nodes(cpus: float, gpus: float, room: int) -> None:
    assert places(Resources(cpus=cpus, gpus=gpus), TWO_NODES) == room


def test_workers_that_ask_for_nothing_have_room_anywhere() -> None:
    assert places(Resources(cpus=0), TWO_NODES) == float("inf")


def test_a_training_needs_room_for_all_its_workers_and_another_stage_for_one(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "nodes", lambda: TWO_NODES)
    graph = Graph([Walk(steps=1), Count(shards=1, rows=1)])
    plan = make_plan(graph, Store(f"{tmp_path}/store"), Scope())
    eight = Resources(workers=8, gpus=1)
    check_capacity(plan, {"walk": eight, "count": Resources(workers=99, gpus=4)})
    message = (
        "walk (9 of its workers, each with CPU: 1, GPU: 1; there is room for 8, "
        "and the most on one node is CPU: 8, GPU: 4)"
    )
    with pytest.raises(PipelineError, match=re.escape(message)):
        check_capacity(plan, {"walk": Resources(workers=9, gpus=1), "count": eight})
    with pytest.raises(PipelineError, match="there is room for 0"):
        check_capacity(plan, {"walk": Resources(workers=2, gpus=8), "count": eight})
    with pytest.raises(PipelineError, match=re.escape("count (1 of its workers")):
        check_capacity(plan, {"walk": eight, "count": Resources(custom={"pods": 1})})
