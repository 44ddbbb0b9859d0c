"""What a stage depends on, and what its key says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from pipelines.core.errors import PipelineError
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.runner import RunSettings
from pipelines.core.stage import Artifact, Context, Shards, Stage
from pipelines.core.stage_maker import StageContext
from pipelines.core.store import Manifest, Store
from tests.core.toys import Add, Count, Sum


@dataclass(frozen=True)
class Merge(Stage[Shards]):
    """Reads stages from a field, a tuple and a mapping."""

    kind: ClassVar[str] = "merge"
    artifact: ClassVar[type[Artifact]] = Shards

    one: Stage[Shards]
    some: tuple[Stage[Shards], ...] = ()
    named: Mapping[str, Stage[Shards]] = field(default_factory=dict)
    other: Any = None

    def run(self, ctx: Context) -> Shards:
        return ctx.load(self.one)


def counted(rows: int, name: str) -> Count:
    return Count(1, rows, name=name)


def test_stages_in_tuples_and_mappings_are_scheduled_and_are_in_the_key() -> None:
    a, b, c = (counted(n, f"count_{n}") for n in (1, 2, 3))
    merge = Merge(a, (b,), {"left": c})
    assert dict(merge.dependencies) == {"one": a, "some.0": b, "named.left": c}
    assert list(Graph([merge]).stages) == ["count_1", "count_2", "count_3", "merge"]
    assert Merge(a, (counted(9, "count_2"),), {"left": c}).key != merge.key
    assert Merge(a, (b,), {"left": counted(9, "count_3")}).key != merge.key
    assert Merge(a, (b,), {"right": c}).key != merge.key


@pytest.mark.parametrize(
    "hidden",
    [
        lambda stage: [stage],
        lambda stage: {stage},
        lambda stage: (stage, 1),
        lambda stage: {"a": stage, "b": None},
        lambda _: Count,
    ],
    ids=["list", "set", "mixed tuple", "mixed mapping", "a class"],
)
def test_a_stage_that_cannot_be_tracked_is_refused(hidden: Any) -> None:
    stage = counted(1, "count")
    with pytest.raises(PipelineError, match=r"merge.*other"):
        _ = Merge(stage, other=hidden(stage)).key


def test_the_name_of_a_stage_is_its_folder_and_not_part_of_any_key() -> None:
    one, other = counted(2, "one"), counted(2, "other")
    assert one.key == other.key
    assert (one.label, other.label) == (f"one/{one.key}", f"other/{one.key}")
    assert Add(one, 1).key == Add(other, 1).key
    assert Count(1, 2).name == "count"


def test_two_different_stages_of_one_name_are_refused() -> None:
    with pytest.raises(PipelineError, match="both named 'count'"):
        Graph([Merge(counted(1, "count"), (counted(2, "count"),))])
    Graph([Merge(counted(1, "count"), (counted(1, "count"),))])  # the same stage twice is fine


@dataclass(frozen=True)
class Listed(Stage[Shards]):
    """Reads a list from outside."""

    kind: ClassVar[str] = "listed"
    artifact: ClassVar[type[Artifact]] = Shards

    def digests(self) -> Mapping[str, str]:
        raise AssertionError("the list was read")

    def run(self, ctx: Context) -> Shards:
        raise AssertionError


def test_building_a_graph_reads_no_data() -> None:
    graph = Graph([Sum(Add(Listed(), 1))])
    assert graph.downstream("listed") == {"listed", "add", "sum"}
    with pytest.raises(AssertionError, match="the list was read"):
        _ = graph["sum"].key


def test_a_misspelt_stage_gets_the_name_that_was_meant() -> None:
    with pytest.raises(PipelineError, match="Did you mean count"):
        Graph([counted(1, "count")])["cuont"]


@dataclass(frozen=True)
class Longer(Stage[Shards]):
    """Goes on from any shorter result."""

    kind: ClassVar[str] = "longer"
    artifact: ClassVar[type[Artifact]] = Shards

    steps: int

    def continues(self, earlier: Any) -> Manifest | None:
        shorter = [m for m in earlier if m.description["steps"] < self.steps]
        return shorter[0] if shorter else None

    def run(self, ctx: Context) -> Shards:
        raise AssertionError


def finished(store: Store, stage: Stage[Any]) -> None:
    store.folder(stage.name, stage.key).write_json("made.json", stage.description)
    store.commit(
        Manifest(
            stage=stage.name,
            key=stage.key,
            version=1,
            description=stage.description,
            dependencies={},
            metadata={"rows": {}, "counts": {}},
            outputs={},
            provenance={},
            links={},
            created_at="2026-01-01T00:00:00+00:00",
            duration_s=1.0,
        )
    )


def test_the_plan_says_which_result_the_work_goes_on_from(tmp_path: Any) -> None:
    store, short = Store(str(tmp_path)), Longer(600)
    finished(store, short)
    step = make_plan(Graph([Longer(1000)]), store, Scope())["longer"]
    assert step.continues is not None
    assert step.reason == f"longer.steps: 600 → 1000; goes on from the result {short.key}"
    for afresh in (
        make_plan(Graph([Longer(100)]), store, Scope())["longer"],
        make_plan(Graph([Longer(1000)]), store, Scope(force=["longer"]))["longer"],
    ):
        assert afresh.continues is None
        assert "goes on" not in afresh.reason


def test_a_stage_that_is_only_selected_still_uses_earlier_results(tmp_path: Any) -> None:
    store, short = Store(str(tmp_path)), Longer(600)
    finished(store, short)
    unfinished = make_plan(Graph([Longer(1000)]), store, Scope(only="longer"))["longer"]
    assert not unfinished.forced
    assert unfinished.continues is not None
    again = make_plan(Graph([short]), store, Scope(only="longer"))["longer"]
    assert again.forced
    assert again.manifest is not None


def test_a_forced_stage_is_made_afresh_even_if_outputs_are_gone(tmp_path: Any) -> None:
    store, stage = Store(str(tmp_path)), Longer(600)
    finished(store, stage)
    store.folder(stage.name, stage.key).remove_file("made.json")
    found = make_plan(Graph([stage]), store, Scope())["longer"]
    assert "made.json" in found.reason
    forced = make_plan(Graph([stage]), store, Scope(force=["longer"]))["longer"]
    assert forced.manifest is not None  # so that it is put aside
    assert forced.forced


@pytest.mark.parametrize("forced", [False, True])
def test_a_forced_stage_is_offered_no_earlier_result(tmp_path: Any, forced: bool) -> None:
    store, stage = Store(str(tmp_path)), Longer(600)
    finished(store, stage)
    settings = RunSettings().of(stage)
    folder = store.folder(stage.name, stage.key)
    ctx = StageContext(stage, folder, lambda event: None, settings, store, forced)
    assert [manifest.key for manifest in ctx.earlier()] == ([] if forced else [stage.key])
