"""Faults around a training: the store, the disk, and the rows. The result has the same bytes."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.artifacts import MODEL_FILE, EmbeddingShards
from pipelines.core.events import Event, Note
from pipelines.core.filesystem import StoreWriteError
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.stage import Context, load_artifact
from pipelines.core.store import Store
from pipelines.stages.train import TrainModel
from pipelines.training.worker import goodput
from tests.core import limited
from tests.core.processes import until
from tests.core.s3_proxy import S3Proxy, proxied
from tests.core.test_runner import Recorder
from tests.pipelines import given, training_driver
from tests.pipelines.local import context, make, write_table
from tests.pipelines.training import TrainingContext
from tests.s3 import bucket

SHORT = replace(training_driver.TRAINING, steps=12, log_every_steps=1)
LONG = replace(SHORT, steps=60, checkpoint_every_steps=5)
AWAY_S = 30.0


@pytest.fixture
def proxy() -> Iterator[S3Proxy]:
    with bucket(), proxied() as proxy:
        yield proxy


def train(store: Store, stage: TrainModel, events: list[Event] | None = None) -> bytes:
    """Train in this process; the weights."""
    for dependency in stage.dependencies.values():
        make(store, dependency)
    torch.set_num_threads(1)
    made = stage.run(context(store, stage, events, kind=TrainingContext))
    return Path(made.folder.local(MODEL_FILE)).read_bytes()


def notes_of(events: Sequence[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow  # the store is away for half a minute
def test_a_store_that_refuses_requests_for_30_seconds_during_a_checkpoint_costs_no_step(
    proxy: S3Proxy, tmp_path: Path
) -> None:
    stage, store = training_driver.stage_of(1, LONG), Store("s3://bucket/store")
    wanted = train(Store(str(tmp_path / "undisturbed")), stage)
    folder, events = store.folder(stage.name, stage.key), list[Event]()

    def take_away() -> None:
        until(lambda: folder.sizes(".checkpoints"), timeout_s=60)
        proxy.errors = 1.0
        time.sleep(AWAY_S)
        proxy.errors = 0.0

    away = threading.Thread(target=take_away)
    away.start()
    assert train(store, stage, events) == wanted
    away.join()
    assert proxy.failed["errors"] > 1
    assert "resumes" not in " ".join(notes_of(events))


def test_a_disk_that_fills_up_ends_a_training_which_resumes_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, store = training_driver.stage_of(1, SHORT), Store(f"limited://{tmp_path}/disk/store")
    wanted = train(Store(str(tmp_path / "undisturbed")), stage)
    monkeypatch.setattr(limited, "MOST_BYTES", 2**30)
    for dependency in stage.dependencies.values():
        make(store, dependency)
    used = sum(path.stat().st_size for path in tmp_path.glob("disk/**/*") if path.is_file())
    one_checkpoint = 16 * len(wanted) // 4
    monkeypatch.setattr(limited, "MOST_BYTES", used + int(2.5 * one_checkpoint))
    events: list[Event] = []
    with pytest.raises(StoreWriteError, match=r"No space left on device.*Free some space"):
        train(store, stage, events)
    notes = notes_of(events)
    assert "the checkpoint of step 4 could not be written" in notes[0]
    assert not list(tmp_path.rglob(".tmp-*"))
    monkeypatch.setattr(limited, "MOST_BYTES", 2**30)
    events.clear()
    assert train(store, stage, events) == wanted
    assert "resumes at step 2" in notes_of(events)


def test_samples_that_cannot_be_written_cost_a_note_and_no_step(tmp_path: Path) -> None:
    stage = training_driver.stage_of(1, replace(SHORT, sample_every_steps=6))
    store, events = Store(str(tmp_path / "store")), list[Event]()
    wanted = train(Store(str(tmp_path / "undisturbed")), stage)
    folder = Path(store.folder(stage.name, stage.key).url.removeprefix("file://"))
    folder.mkdir(parents=True)
    (folder / "samples").write_text("a file where a folder should be")
    assert train(store, stage, events) == wanted
    assert [note.partition(" could not")[0] for note in notes_of(events)] == [
        f"samples/step-{step:08d}.png" for step in (6, 12)
    ]


BROKEN = ("00001", 4)  # shard, row


def broken_key(stage: TrainModel, store: Store) -> str:
    name, row = BROKEN
    return str(load_artifact(store, stage.embeddings).read(name, ["key"])["key"][row])


@dataclass(frozen=True)
class BrokenEmbeddings(given.GivenEmbeddings):
    """One embedding to train on is not a number."""

    def run(self, ctx: Context) -> EmbeddingShards:
        made = super().run(ctx)
        name, row = BROKEN
        table = made.read(name)
        embeds = np.stack(table["image_embeds"].to_numpy())
        embeds[row] = np.nan
        column = pa.FixedSizeListArray.from_arrays(embeds.ravel(), embeds.shape[1])
        index = table.schema.get_field_index("image_embeds")
        table = table.set_column(index, table.schema.field(index), column)
        write_table(ctx.folder, f"{name}.parquet", table)
        return made


@pytest.mark.slow  # Ray Train starts its workers
@pytest.mark.ray
def test_a_nan_on_one_of_two_sharded_workers_is_skipped_by_both_and_its_rows_are_named(
    tmp_path: Path,
) -> None:
    stage = training_driver.stage_of(2, SHORT)
    broken = BrokenEmbeddings(
        stage.embeddings.pairs,  # type: ignore[attr-defined]
        stage.embeddings.verdicts,  # type: ignore[attr-defined]
        stage.embeddings.clip,  # type: ignore[attr-defined]
    )
    stage = replace(stage, embeddings=broken, selection=given.GivenSelection(broken))
    alone, store = Store(str(tmp_path / "alone")), Store(str(tmp_path / "store"))
    events: list[Event] = []
    wanted = train(alone, replace(stage, parallel=training_driver.stage_of(1).parallel), events)
    skipped = [text for text in notes_of(events) if "was not taken (the loss is nan)" in text]
    assert skipped
    assert broken_key(stage, alone) in skipped[0]
    for dependency in stage.dependencies.values():
        make(store, dependency)
    settings = RunSettings(
        resources={"decoder": Resources(workers=2)}, cluster=ClusterSettings(cpus=2)
    )
    recorder = Recorder()
    run_plan(make_plan(Graph([stage]), store, Scope()), store, settings, [recorder])
    made = make(store, stage)
    assert Path(made.folder.local(MODEL_FILE)).read_bytes() == wanted
    assert [text for text in notes_of(recorder.events) if "was not taken" in text] == skipped


def test_goodput_counts_steps_once_and_all_of_the_time() -> None:
    def entry(step: int, step_time_s: float, unix_time: float) -> dict[str, float]:
        return {"step": step, "step_time_s": step_time_s, "unix_time": unix_time}

    undisturbed = [entry(10, 1.0, 100.0), {"step": 15}, entry(20, 1.0, 110.0)]
    assert goodput(undisturbed[:1]) is None
    assert goodput(undisturbed) == pytest.approx(1.0)
    assert goodput([entry(10, 1.0, 100.0), entry(20, 1.0, 109.9)]) == 1.0
    # Killed at step 29, restarted after 11 s from step 20: the ten steps cost 30 s.
    assert goodput([*undisturbed, entry(30, 1.0, 140.0)]) == pytest.approx(20 / 40)
