"""A stage whose two workers share the weights, through Ray."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.artifacts import MODEL_FILE, SAMPLE_FILE, TrainedModel
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.store import Store
from pipelines.stages.train import TrainModel
from tests.pipelines import training_driver
from tests.pipelines.local import context, make
from tests.pipelines.training import TrainingContext

TRAINING = replace(
    training_driver.TRAINING,
    steps=3,
    log_every_steps=1,
    sample_every_steps=2,
    validate_every_steps=3,
)
WORKERS = {"decoder": Resources(workers=2, cpus=1)}


def stage_of(shard_workers: int) -> TrainModel:
    return training_driver.stage_of(shard_workers, TRAINING)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store(str(tmp_path / "store"))
    for dependency in stage_of(1).dependencies.values():
        make(store, dependency)
    return store


def alone(store: Store, stage: TrainModel) -> TrainedModel:
    torch.set_num_threads(1)
    elsewhere = store.folder("alone", stage.key)
    return stage.run(context(store, stage, folder=elsewhere, kind=TrainingContext))


@pytest.mark.slow  # Ray Train starts its workers
@pytest.mark.ray
def test_two_workers_that_share_the_weights_make_the_file_that_one_worker_makes(
    store: Store,
) -> None:
    assert stage_of(2).key == stage_of(1).key
    wanted = alone(store, stage_of(1))
    settings = RunSettings(resources=WORKERS, cluster=ClusterSettings(cpus=2))
    run_plan(make_plan(Graph([stage_of(2)]), store, Scope()), store, settings)
    made = make(store, stage_of(2))
    for folder in (wanted.folder, made.folder):
        files = folder.files()
        assert {SAMPLE_FILE.format(2), SAMPLE_FILE.format(3)} <= set(files)
        assert any(name.startswith("state/step-00000003/") for name in files)
    weights = [Path(m.folder.local(MODEL_FILE)).read_bytes() for m in (wanted, made)]
    assert weights[0] == weights[1]
    curves = [
        [{k: e[k] for k in e if "loss" in k} for e in m.folder.read_json("history.json")]
        for m in (wanted, made)
    ]
    assert curves[0] == curves[1]
    assert "state/step-00000003/1.bin" in made.folder.files()
