"""The engine, on toy stages, through real Ray processes that really die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipelines.core import capacity
from pipelines.core.errors import PipelineError
from pipelines.core.events import Event, Metrics, Note, Progress
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, Step, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, StageFailedError, run_plan
from pipelines.core.stage import Shards, load_artifact
from pipelines.core.store import Manifest, Store
from tests.core.processes import start
from tests.core.toys import Add, Count, Sum, Walk, traces

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

TWO_WORKERS = {name: Resources(workers=2, cpus=1) for name in ("count", "add", "walk")}
EVERYTHING = Scope()
SETTINGS = RunSettings(resources=TWO_WORKERS, retries=2, wait_s=20, cluster=ClusterSettings(cpus=2))


class Recorder:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.events: list[Event] = []

    def started(self, step: Step) -> Mapping[str, str]:
        self.log.append(f"start {step.stage.name}")
        return {"run": f"run of {step.stage.name}"}

    def event(self, event: Event) -> None:
        self.events.append(event)

    def finished(self, manifest: Manifest) -> None:
        self.log.append(f"finish {manifest.stage}")

    def failed(self, step: Step, error: BaseException) -> None:
        self.log.append(f"fail {step.stage.name}")


def graph(amount: int = 1) -> Graph:
    return Graph([Sum(Add(Count(4, 3), amount))])


def run(
    store: Store, toys: Graph, scope: Scope = EVERYTHING, recorder: Recorder | None = None
) -> None:
    run_plan(make_plan(toys, store, scope), store, SETTINGS, [recorder] if recorder else [])


def test_a_changed_field_reruns_only_what_depends_on_it(tmp_path: Path, trace: Path) -> None:
    store, recorder = Store(str(tmp_path / "store")), Recorder()
    run(store, graph(), recorder=recorder)
    assert recorder.log == [
        f"{w} {s}" for s in ("count", "add", "sum") for w in ("start", "finish")
    ]
    assert Metrics("sum", 0, {"total": float(sum(range(12)) + 12)}) in recorder.events
    assert Progress("count", 4, 4, "shards") in recorder.events
    assert load_artifact(store, graph()["sum"]).metadata() == {"total": sum(range(12)) + 12}
    assert store.manifests("sum")[0].links == {"run": "run of sum"}

    plan = make_plan(graph(amount=5), store, Scope())
    assert [(s.stage.name, s.action) for s in plan.steps] == [
        ("count", "cached"),
        ("add", "run"),
        ("sum", "run"),
    ]
    assert plan["add"].reason == "add.amount: 1 → 5"
    assert plan["sum"].reason == "add changed"
    run(store, graph(amount=5))
    assert traces(trace, "count") == dict.fromkeys(["00000", "00001", "00002", "00003"], 1)
    assert load_artifact(store, graph(amount=5)["sum"]).metadata() == {"total": sum(range(12)) + 60}


def test_a_killed_worker_costs_only_the_shard_in_flight(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_COUNT", "die_at=00002")
    store, recorder = Store(str(tmp_path / "store")), Recorder()
    run(store, graph(), recorder=recorder)
    assert traces(trace, "count") == {"00000": 1, "00001": 1, "00002": 2, "00003": 1}
    assert any(isinstance(e, Note) and "00002" in e.text for e in recorder.events)
    assert load_artifact(store, graph()["sum"]).metadata() == {"total": sum(range(12)) + 12}


def test_a_failing_shard_keeps_the_others_and_a_second_run_makes_only_it(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_ADD", "fail_at=00003")
    store = Store(str(tmp_path / "store"))
    with pytest.raises(StageFailedError, match=r"00003 cannot be added to\. .*sum") as failure:
        run(store, graph())
    assert "What was finished stays" in str(failure.value)
    before = traces(trace, "add")
    assert make_plan(graph(), store, Scope())["add"].reason.startswith("was interrupted")
    monkeypatch.setenv("TOY_ADD", "")
    run(store, graph())
    after = traces(trace, "add")
    again = {name for name in after if after[name] != before.get(name)}
    assert "00003" in again
    assert "00000" not in again


def test_a_killed_driver_resumes_with_the_shards_that_were_done(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_COUNT", "pause_s=1.5")
    store = Store(str(tmp_path / "store"))
    script = f"from tests.core.test_runner import *; run(Store({store.root!r}), graph())"
    driver = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not list(Path(store.root).glob("count/shards/*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = set(Path(store.root).glob("count/shards/*.parquet"))
    begun = traces(trace, "count")
    assert 0 < len(done) < 4
    run(store, graph())
    made = load_artifact(store, graph()["count"])
    assert isinstance(made, Shards)
    again = {name for name, n in traces(trace, "count").items() if n > begun.get(name, 0)}
    assert again == {name for name in made.shards if Path(made.url(name)) not in done}
    assert load_artifact(store, graph()["sum"]).metadata() == {"total": sum(range(12)) + 12}


def test_a_dead_training_worker_resumes_from_what_it_had(tmp_path: Path, trace: Path) -> None:
    store, recorder = Store(str(tmp_path / "store")), Recorder()
    walk = Graph([Walk(steps=6, die_at=3)])
    run(store, walk, recorder=recorder)
    assert load_artifact(store, walk["walk"]).metadata()["resumed_at"] >= 3
    assert traces(trace, "walk") == {str(i): 1 for i in range(6)}
    assert any(isinstance(e, Note) and "start again" in e.text for e in recorder.events)
    assert set(store.manifests("walk")[0].outputs) == {"walked.json"}


def test_a_training_that_raises_is_told_at_once_and_not_tried_again(
    tmp_path: Path, trace: Path
) -> None:
    store, recorder = Store(str(tmp_path / "store")), Recorder()
    with pytest.raises(StageFailedError, match="Stage walk: ValueError: step 2 cannot be taken"):
        run(store, Graph([Walk(steps=6, fail_at=2)]), recorder=recorder)
    # Rank 1 may be the first to raise, and rank 0 be ended before its own step 2.
    assert traces(trace, "walk") in [{"0": 1, "1": 1}, {"0": 1, "1": 1, "2": 1}]
    assert not [e for e in recorder.events if isinstance(e, Note)]


def test_forcing_a_stage_runs_it_alone_and_failing_brings_the_old_result_back(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, recorder = Store(str(tmp_path / "store")), Recorder()
    run(store, graph())
    run(store, graph(), Scope(force=["add"]), recorder)
    assert recorder.log == ["start add", "finish add"]
    assert set(traces(trace, "add").values()) == {2}
    made = store.manifests("add")[0]
    monkeypatch.setenv("TOY_ADD", "fail_at=00001")
    with pytest.raises(StageFailedError):
        run(store, graph(), Scope(force=["add"]))
    assert store.manifests("add") == [made]
    assert store.missing_outputs(made) == []
    assert not list((tmp_path / "store" / "add").glob("*.replaced"))


def test_a_request_that_the_cluster_cannot_meet_starts_nothing(tmp_path: Path, trace: Path) -> None:
    store = Store(str(tmp_path / "store"))
    settings = RunSettings(
        resources={"walk": Resources(workers=3, gpus=1)}, cluster=ClusterSettings(cpus=2)
    )
    plan = make_plan(Graph([Walk(steps=2), *graph().stages.values()]), store, Scope())
    with pytest.raises(PipelineError, match=r"walk \(3 of its workers.*Nothing was started"):
        run_plan(plan, store, settings)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["count", "sum"])
def test_a_resource_that_is_lost_during_the_run_is_an_error_and_no_silent_end(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store = Store(str(tmp_path / "store"))
    if name == "sum":  # a single call, where the others make shards
        run(store, graph(), Scope())
        store.folder("sum", graph()["sum"].key).remove()
    monkeypatch.setattr(
        capacity, "nodes", lambda: [{"CPU": 2.0, "rare": 1.0}]
    )  # of a node that went
    settings = RunSettings(
        resources={name: Resources(custom={"rare": 1})},
        wait_s=2,
        cluster=ClusterSettings(cpus=2),
    )
    with pytest.raises(StageFailedError, match=rf"{name} waited 2 s for a worker with .*rare"):
        run_plan(make_plan(graph(), store, Scope()), store, settings)


def test_workers_log_where_the_driver_does(tmp_path: Path, trace: Path) -> None:
    driver = start(tmp_path / "store", "sum", "verbose=yes")
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    assert "pipelines.core.runner: starting count/" in err
    assert "DEBUG   pipelines.core.shards: making shard 00000" in out + err
