import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.core.errors import PipelineError
from pipelines.core.events import Metrics
from pipelines.core.store import Store
from pipelines.tracking.preflight import prepare
from pipelines.tracking.run_values import (
    artifact_folder,
    flatten,
    metadata_numbers,
    safe_name,
    step_of,
)
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.tracker import Tracker
from tests.pipelines.fake_run import losses, plan_of, tell, whole_run
from tests.pipelines.tracked import SETTINGS, artifacts, begun, history, runs
from unclip.config import ConfigError


def test_a_pipeline_is_a_parent_run_with_a_child_for_each_stage_that_the_manifests_link_to(
    store: Store,
) -> None:
    said: list[str] = []
    client = MlflowClient(prepare(SETTINGS, store, said.append))
    plan = plan_of(store)
    tracker = begun(store, plan, said.append)
    links = whole_run(tracker, store, plan)
    tracker.end("FINISHED")
    assert said == []

    parent, *children = runs(client)
    assert [c.info.run_name for c in children] == ["pairs", "fit", "check"]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert {r.info.status for r in (parent, *children)} == {"FINISHED"}
    for child in children:
        manifest = store.manifests(child.info.run_name)[0]
        assert manifest.links == links[manifest.stage]
        assert manifest.links["mlflow_run_id"] == child.info.run_id
        assert child.data.tags["stage_key"] == manifest.key
        logged = client.download_artifacts(child.info.run_id, "manifest.json")
        assert json.loads(Path(logged).read_text())["key"] == manifest.key

    assert parent.info.run_name.startswith("toy ")
    assert parent.data.params == {"models.fit.width": "8"}
    assert parent.data.tags["command"] == "unclip run toy"
    assert parent.data.metrics["check/fid"] == 12.5
    assert artifacts(client, parent.info.run_id) == {"report/report.html"}
    for child in children:
        assert f"/runs/{child.info.run_id}" in parent.data.tags["mlflow.note.content"]


def test_a_stage_page_has_params_metrics_pictures_model_data_sets_and_notes(store: Store) -> None:
    client = MlflowClient(prepare(SETTINGS, store, print))
    plan = plan_of(store)
    tracker = begun(store, plan, print)
    links = whole_run(tracker, store, plan)
    tracker.end("FINISHED")
    pairs, fit = (client.get_run(links[s]["mlflow_run_id"]) for s in ("pairs", "fit"))

    assert fit.data.params["config.learning_rate"] == "0.001"
    assert fit.data.params["inputs.pairs"] == plan["pairs"].stage.label
    assert history(client, fit.info.run_id, "train/loss") == [(s, 1 / (s + 1)) for s in range(20)]
    assert fit.data.metrics["result/final_loss"] == 0.25
    assert fit.data.metrics["result/duration_s"] == 61.5
    files = artifacts(client, fit.info.run_id)
    assert {"samples/step_000010.png", "samples/step_000020.png"} <= files
    assert "model/model.safetensors" in files
    assert any(file.startswith("images/samples+step+20") for file in files)
    assert "A model fitted to the pairs." in fit.data.tags["mlflow.note.content"]

    (made,), (used,) = pairs.inputs.dataset_inputs, fit.inputs.dataset_inputs
    assert made.dataset.digest == used.dataset.digest == plan["pairs"].stage.key
    assert json.loads(made.dataset.profile)["num_rows"] == 7
    assert [i.tags[0].value for i in (made, used)] == ["output", "input"]
    assert pairs.data.metrics["result/counts/rejected/small"] == 2
    notes = Path(client.download_artifacts(pairs.info.run_id, "notes.txt")).read_text()
    assert "a worker died" in notes


def test_a_cached_stage_links_to_the_run_that_made_it(store: Store) -> None:
    client = MlflowClient(prepare(SETTINGS, store, print))
    first = begun(store, plan_of(store), print)
    links = whole_run(first, store, plan_of(store))
    first.end("FINISHED")
    changed = plan_of(store, width=16)
    second = begun(store, changed, print)
    tell(second, store, changed, "fit")
    second.end("FINISHED")
    parent = next(r for r in runs(client)[4:] if r.info.run_name.startswith("toy"))
    made_by, key = links["pairs"]["mlflow_run_id"], changed["pairs"].stage.key
    assert parent.data.tags["cached.pairs"] == f"run {made_by}, key {key}"
    assert f"/runs/{made_by}" in parent.data.tags["mlflow.note.content"]
    assert "width: 8 → 16" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["pairs/rows"] == 7


def test_a_model_above_the_limit_is_a_link_to_the_store(store: Store) -> None:
    settings = TrackingSettings(max_artifact_mb=0)
    client = MlflowClient(prepare(settings, store, print))
    plan = plan_of(store)
    tracker = begun(store, plan, print, settings)
    links = tell(tracker, store, plan, "fit")
    tracker.end("FINISHED")
    run = client.get_run(links["mlflow_run_id"])
    folder = store.folder("fit", plan["fit"].stage.key)
    assert run.data.tags["model.model.safetensors"] == folder.file("model.safetensors")
    assert not any(f.startswith("model/") for f in artifacts(client, run.info.run_id))


def test_a_failed_stage_shows_its_error_and_an_interrupted_one_is_killed(store: Store) -> None:
    client = MlflowClient(prepare(SETTINGS, store, print))
    plan = plan_of(store)
    tracker = begun(store, plan, print)
    tracker.started(plan["pairs"])
    tracker.started(plan["fit"])
    tracker.event(losses(0, 1)[0])
    tracker.failed(plan["pairs"], PipelineError("the list is gone"))
    tracker.end("FAILED")
    parent, pairs, fit = runs(client)
    statuses = [r.info.status for r in (parent, pairs, fit)]
    assert statuses == ["FAILED", "FAILED", "KILLED"]
    assert "the list is gone" in pairs.data.tags["error"]
    assert fit.data.metrics["train/loss"] == 1.0


def test_a_stage_that_goes_on_after_a_killed_driver_closes_the_run_that_was_left_open(
    store: Store,
) -> None:
    client = MlflowClient(prepare(SETTINGS, store, print))
    plan = plan_of(store)
    left = begun(store, plan, print).started(plan["fit"])  # and never heard of again
    links = tell(begun(store, plan, print), store, plan, "fit")
    assert client.get_run(left["mlflow_run_id"]).info.status == "KILLED"
    again = client.get_run(links["mlflow_run_id"])
    assert again.data.tags["continues"] == left["mlflow_run_id"]
    assert [r.info.status for r in runs(client) if r.info.run_name.startswith("toy")] == [
        "KILLED",
        "RUNNING",
    ]


def test_a_remote_store_needs_a_server_and_a_deleted_experiment_is_named(store: Store) -> None:
    with pytest.raises(PipelineError, match=r"s3://bucket.*run\.tracking\.uri"):
        prepare(SETTINGS, Store("s3://bucket"), print)
    client = MlflowClient(prepare(SETTINGS, store, print))
    experiment = client.get_experiment_by_name("unclip")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(PipelineError, match="'unclip' was deleted"):
        prepare(SETTINGS, store, print)
    with pytest.raises(ConfigError, match="experiment is empty"):
        TrackingSettings(experiment=" ")


def test_settings_and_facts_become_flat_names_and_numbers() -> None:
    given = {"a": {"b": 1, "c": (1, 2)}, "models": [{"width": 8}, {"width": 4}], "x": None}
    assert flatten(given) == {
        "a.b": "1",
        "a.c": "[1, 2]",
        "models.0.width": "8",
        "models.1.width": "4",
        "x": "null",
    }
    metadata = {
        "name": "a",
        "ok": True,
        "shards": {"0": [2, "digest", "stem"], "1": [3, "digest", "stem"]},
        "held_out": {"0": 1, "1": 1},
        "kept_digests": {"0": "digest", "1": "digest"},
        "metrics": {"fid@10k": 1},
    }
    expected = {"rows": 5, "shards": 2, "held_out": 2, "fid_10k": 1}
    assert metadata_numbers(metadata) == expected
    assert safe_name("/../a//b") == "a/b"
    assert [artifact_folder(f) for f in ("a/b.PNG", "report.html", "m.safetensors", "x.csv")] == [
        "samples",
        "report",
        "model",
        "files",
    ]
    assert [step_of(f) for f in ("s/step_0010.png", "grid.png")] == [10, None]


def test_a_new_database_shows_only_the_experiment_of_the_pipeline(store: Store) -> None:
    client = MlflowClient(prepare(SETTINGS, store, print))
    tracker = begun(store, plan_of(store), print)
    tracker.end("FINISHED")
    assert [e.name for e in client.search_experiments()] == [SETTINGS.experiment]


def test_the_machine_is_sampled_now_and_then_on_the_run_of_the_pipeline(store: Store) -> None:
    now = 0.0
    plan = plan_of(store)
    uri = prepare(SETTINGS, store, print)
    tracker = Tracker(plan, store, SETTINGS, uri=uri, warn=print, clock=lambda: now)
    tracker.begin(name="toy", config={}, command="unclip run toy")
    tracker.started(plan.steps[0])
    for now in (1.0, 11.0, 13.0, 22.0):  # noqa: B007 - read by the clock
        tracker.event(Metrics("pairs", 0, {"kept": 1}))
    tracker.end("KILLED")
    client = MlflowClient(uri)
    parent = runs(client)[0]
    memory = history(client, parent.info.run_id, "system/system_memory_usage_percentage")
    assert [step for step, _ in memory] == [1, 2]
    assert all(0 < value < 100 for _, value in memory)
    assert "system/cpu_utilization_percentage" in parent.data.metrics
    assert "system/network_receive_megabytes" in parent.data.metrics
