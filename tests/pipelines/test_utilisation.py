"""The share of the GPUs' peak FLOP/s that a training reaches, as a curve."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.artifacts import HISTORY_FILE
from pipelines.config.load import load_config
from pipelines.core.resources import Resources
from pipelines.core.store import Store
from pipelines.graph import unclip_graph
from pipelines.sizing.trainings import sizes_of
from pipelines.stages.clip import TrainClip
from pipelines.stages.train import TrainModel
from pipelines.training.cost import CostedTask, step_flops
from tests.pipelines.local import context, make
from tests.pipelines.test_init_from import stage_of
from tests.pipelines.training import TrainingContext

GPU = Resources(gpus=0.5)
PEAK = 1e12


@pytest.mark.parametrize(
    ("config", "name", "workers"), [("paper", "decoder", 8), ("demo", "clip", 1)]
)
def test_the_flops_are_those_of_the_plan(config: str, name: str, workers: int) -> None:
    loaded = load_config(config, [f"run.resources.{name}={{workers: {workers}, gpus: 1}}"])
    stage = unclip_graph(loaded)[name]
    [size] = sizes_of([stage], loaded.run).trainings
    assert isinstance(stage, TrainModel | TrainClip)
    if isinstance(stage, TrainModel):
        task, training = CostedTask.of_model(stage.model), stage.training
    else:
        task, training = CostedTask.of_clip(stage.config.architecture), stage.config.training
    resources = loaded.run.resources[name]
    found = step_flops(task, training=training, parallel=stage.parallel, resources=resources)
    assert found == size.step_flops


def test_the_peak_of_a_stage_is_that_of_the_device_of_the_run() -> None:
    unknown = unclip_graph(load_config("demo"))
    known = unclip_graph(load_config("demo", ["run.device.gpu=A100-80GB"]))
    for name in ("clip", "prior", "decoder"):
        assert unknown[name].peak_flops_per_s is None
        assert known[name].peak_flops_per_s == 19.5e12


def entries_of(tmp_path: Path, resources: Resources) -> list[dict[str, float]]:
    """The log entries of a training with a peak."""
    torch.set_num_threads(1)
    stage = replace(stage_of(None), peak_flops_per_s=PEAK)
    store = Store(str(tmp_path / "store"))
    for dependency in stage.dependencies.values():
        make(store, dependency)
    ctx = context(store, stage, kind=TrainingContext)
    made = stage.run(replace(ctx, settings=replace(ctx.settings, resources=resources)))
    history: list[dict[str, float]] = made.folder.read_json(HISTORY_FILE)
    return [entry for entry in history if "step_time_s" in entry]


def test_each_log_entry_has_it(tmp_path: Path) -> None:
    stage, entries = stage_of(None), entries_of(tmp_path, GPU)
    flops = step_flops(
        CostedTask.of_model(stage.model),
        training=stage.training,
        parallel=stage.parallel,
        resources=GPU,
    )
    assert flops
    assert [entry["utilisation"] * entry["step_time_s"] for entry in entries] == (
        pytest.approx([flops / (0.5 * PEAK)] * stage.training.steps)
    )


def test_a_training_without_gpus_has_none(tmp_path: Path) -> None:
    assert all("utilisation" not in entry for entry in entries_of(tmp_path, Resources()))


def test_a_model_that_needs_data_is_not_counted() -> None:
    def build() -> nn.Module:
        raise ValueError("this needs a file")

    stage = stage_of(None)
    task = replace(CostedTask.of_model(stage.model), build=build)
    found = step_flops(task, training=stage.training, parallel=stage.parallel, resources=GPU)
    assert found is None


def test_it_changes_no_key() -> None:
    stage = stage_of(None)
    assert replace(stage, peak_flops_per_s=PEAK).key == stage.key
