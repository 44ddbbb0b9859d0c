"""The share of the GPUs' peak FLOP/s that a training reaches, as a curve."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.artifacts import HISTORY_FILE
from pipelines.config.load import load_config
from pipelines.core.resources import Resources
from pipelines.core.store import Store
from pipelines.graph import unclip_graph
from pipelines.sizing.trainings import sizes_of
from pipelines.stages.clip import TrainClip
from pipelines.stages.train import TrainModel
from pipelines.training.cost import CostedTask, peak_s
from tests.pipelines.local import context, make
from tests.pipelines.test_init_from import stage_of
from tests.pipelines.training import TrainingContext

GPU = Resources(gpus=0.5)
PEAK = 1e12


@pytest.mark.parametrize(
    ("config", "name", "workers"), [("paper", "decoder", 8), ("demo", "clip", 1)]
)
def test_the_peak_is_that_of_the_plan(config: str, name: str, workers: int) -> None:
    loaded = load_config(
        config,
        [
            "run.device={gpu: A100-80GB, utilisation: 0.4}",
            f"run.resources.{name}={{workers: {workers}, gpus: 0.5}}",
        ],
    )
    stage = unclip_graph(loaded)[name]
    [size] = sizes_of([stage], loaded.run).trainings
    assert isinstance(stage, TrainModel | TrainClip)
    if isinstance(stage, TrainModel):
        task, training = CostedTask.of_model(stage.model), stage.training
    else:
        task, training = CostedTask.of_clip(stage.config.architecture), stage.config.training
    resources = loaded.run.resources[name]
    alone_s = peak_s(task, training, stage.parallel, resources, stage.peak_flops_per_s)
    assert alone_s is not None
    assert size.hours is not None
    least_hours = alone_s / workers * training.steps / 3600
    assert least_hours == pytest.approx(0.4 * size.hours)


def test_it_is_not_known_without_a_peak_or_gpus() -> None:
    stage = stage_of(None)
    task = CostedTask.of_model(stage.model)
    assert peak_s(task, stage.training, stage.parallel, GPU, None) is None
    assert peak_s(task, stage.training, stage.parallel, Resources(), PEAK) is None


def test_each_log_entry_has_it(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    stage = replace(stage_of(None), peak_flops_per_s=PEAK)
    store = Store(str(tmp_path / "store"))
    for dependency in stage.dependencies.values():
        make(store, dependency)
    ctx = context(store, stage, kind=TrainingContext)
    made = stage.run(replace(ctx, settings=replace(ctx.settings, resources=GPU)))
    task = CostedTask.of_model(stage.model)
    alone_s = peak_s(task, stage.training, stage.parallel, GPU, PEAK)
    history = made.folder.read_json(HISTORY_FILE)
    assert alone_s
    assert [e["utilisation"] * e["step_time_s"] for e in history if "step_time_s" in e] == (
        pytest.approx([alone_s] * stage.training.steps)
    )


def test_it_changes_no_key() -> None:
    stage = stage_of(None)
    assert replace(stage, peak_flops_per_s=PEAK).key == stage.key
