"""A longer training goes on from where a shorter one ended, where its schedule allows that."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.artifacts import MODEL_FILE, TrainedModel
from pipelines.core.events import Event, Note
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.stage_maker import manifest_of
from pipelines.core.store import Store
from pipelines.stages.train import TrainModel
from tests.pipelines.local import context, make
from tests.pipelines.test_init_from import MODEL
from tests.pipelines.test_init_from import stage_of as prior_stage
from tests.pipelines.training import TrainingContext
from unclip.checkpoint import save_model
from unclip.kinds import build


def stage_of(
    init_from: Path | None = None, *, steps: int, lr_schedule: str = "constant"
) -> TrainModel:
    return prior_stage(init_from, steps=steps, lr_schedule=lr_schedule, checkpoint_every_steps=100)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store(str(tmp_path / "store"))
    for dependency in stage_of(steps=1).dependencies.values():
        make(store, dependency)
    return store


def train(
    store: Store, stage: TrainModel, *, force: bool = False
) -> tuple[TrainedModel, list[str]]:
    torch.set_num_threads(1)
    events: list[Event] = []
    made = stage.run(context(store, stage, events, force=force, kind=TrainingContext))
    store.commit(manifest_of(stage, made, {}, 1.0))
    return made, [event.text for event in events if isinstance(event, Note)]


def assert_equal(one: TrainedModel, other: TrainedModel) -> None:
    first, second = (load_file(made.folder.local(MODEL_FILE)) for made in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [
        [entry["loss"] for entry in made.folder.read_json("history.json")] for made in (one, other)
    ]
    assert losses[0] == losses[1]
    assert one.final_loss == other.final_loss


def test_a_longer_training_takes_only_the_steps_that_are_missing(store: Store) -> None:
    short, long = stage_of(steps=6), stage_of(steps=10)
    straight, notes = train(store, long, force=True)
    assert notes == []
    store.folder(long.name, long.key).remove()
    train(store, short)
    step = make_plan(Graph([long]), store, Scope())["prior"]
    assert step.reason == (f"prior.training.steps: 6 → 10; goes on from the result {short.key}")
    continued, notes = train(store, long)
    assert any(f"goes on from the shorter training in {store.root}" in note for note in notes)
    assert any("resumes at step 6" in note for note in notes)
    assert_equal(continued, straight)


def test_a_training_whose_schedule_depends_on_its_length_starts_afresh(store: Store) -> None:
    train(store, stage_of(steps=3, lr_schedule="cosine"))
    long = stage_of(steps=5, lr_schedule="cosine")
    assert "goes on" not in make_plan(Graph([long]), store, Scope())["prior"].reason
    assert train(store, long)[1] == []


def test_weights_that_took_no_step_have_no_state_to_go_on_from(
    store: Store, tmp_path: Path
) -> None:
    save_model(tmp_path / "weights.safetensors", build(MODEL))
    train(store, stage_of(tmp_path / "weights.safetensors", steps=0))
    long = stage_of(tmp_path / "weights.safetensors", steps=2)
    assert "goes on" not in make_plan(Graph([long]), store, Scope())["prior"].reason
    assert train(store, long)[1] == []
