"""Evaluation of models with random weights: properties that hold for any images."""

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines.artifacts import INTERPOLATION_FILE, Evaluation
from pipelines.core.errors import PipelineError
from pipelines.core.events import Event, Metrics, Output
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.stage import load_artifact
from pipelines.core.store import Store
from pipelines.data.pixels import decode_pixels
from pipelines.data.shard_reader import select_rows
from pipelines.evaluation.model_worker import row_generator
from pipelines.evaluation.nearest import NEAREST_FILE
from pipelines.evaluation.rows import Row, choose, read_rows
from pipelines.stages.evaluate import Evaluate, read_metrics
from tests.pipelines import given
from tests.pipelines.local import make
from unclip.config import ConfigError
from unclip.judges.gradients import SIDE, gradients
from unclip.judges.judge import resize

IMAGES = ("original", "generated", "generated_small", "untrained")


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def stage() -> Evaluate:
    return given.evaluate_stage(given.evaluate_config())


@pytest.fixture(scope="module")
def evaluation(store: Store, stage: Evaluate, events: list[Event]) -> Evaluation:
    return make(store, stage, events)


def test_every_split_has_as_many_captions_as_asked_for_and_no_key_twice(evaluation: Evaluation):
    table = given.sample_table(evaluation)
    assert table["held_out"].to_pylist().count(True) == 10
    assert table["held_out"].to_pylist().count(False) == 9
    assert len(set(table["key"].to_pylist())) == table.num_rows


def test_only_probes_are_decoded_from_embeddings(evaluation: Evaluation):
    rows = given.sample_table(evaluation).to_pylist()
    probes = [row for row in rows if row["variations"] is not None]
    assert len(probes) == 2 * 4
    assert {len(row["variations"]) for row in probes} == {2}
    for row in rows:
        decoded = {row["from_true_embedding"] is not None, row["variation_embeds"] is not None}
        assert decoded == {row in probes}


def test_images_have_the_sizes_of_the_cascade(evaluation: Evaluation):
    row = given.sample_table(evaluation).to_pylist()[0]
    sizes = [pixels(row[name]).shape[0] for name in IMAGES]
    assert sizes == [32, 32, 8, 32]
    assert [pixels(image).shape[0] for image in row["generated_middle"]] == [16]


def test_embeddings_of_a_row_are_those_of_its_own_pair(evaluation: Evaluation, store: Store):
    stored = load_artifact(store, given.evaluate_stage(given.evaluate_config()).embeddings)
    known = {r["key"]: r for name in stored.shards for r in stored.read(name).to_pylist()}
    for row in given.sample_table(evaluation).to_pylist():
        assert np.allclose(row["image_embeds"], known[row["key"]]["image_embeds"])
        assert np.allclose(np.linalg.norm(row["predicted_image_embeds"]), 1, atol=1e-4)


def test_an_image_follows_from_seed_and_key_in_any_shard(store: Store):
    few = given.evaluate_config(
        held_out_samples=3, training_samples=2, probe_samples=1, variations=0
    )
    configs = [few, replace(few, batch_size=2), replace(few, seed=4)]
    tables = [given.sample_table(make(store, given.evaluate_stage(c))) for c in configs]
    for row, same, different in zip(*(table.to_pylist() for table in tables), strict=True):
        assert row["key"] == same["key"] == different["key"]
        for name in IMAGES:
            # Batches of another size are summed in another order.
            assert np.abs(pixels(row[name]) - pixels(same[name])).mean() < 0.5
        assert np.abs(pixels(row["generated"]) - pixels(different["generated"])).mean() > 5


def test_every_metric_has_a_value_a_baseline_a_direction_and_a_meaning(
    evaluation: Evaluation, events: list[Event]
):
    records = read_metrics(evaluation)
    assert {name.split("/")[0] for name in records} == {"held_out", "training"}
    for name, record in records.items():
        value, baseline, gain = (record[part] for part in ("value", "baseline", "gain"))
        for figure in (value, baseline, gain):
            assert np.isfinite(list(figure.values())).all()
            assert figure["low"] <= figure["high"]
        assert record["meaning"]
        assert record["baseline_name"]
        sign = 1 if record["higher_is_better"] else -1
        assert gain["value"] == pytest.approx(sign * (value["value"] - baseline["value"]))
        assert record["comparison"] == (
            "none"
            if record["is_descriptive"]
            else "better"
            if gain["low"] > 0
            else "worse"
            if gain["high"] < 0
            else "unclear"
        )
        assert evaluation.metrics[name] == value["value"]
    assert set(evaluation.metrics) == set(records)
    assert Metrics("evaluate", 0, evaluation.metrics) in events


def test_contact_sheets_and_metrics_are_announced_and_written(
    evaluation: Evaluation, events: list[Event]
):
    announced = [event.file for event in events if isinstance(event, Output)]
    assert announced == [
        "metrics.json",
        "samples-held_out.png",
        "reconstructions-held_out.png",
        "samples-training.png",
        "reconstructions-training.png",
        "interpolation.png",
    ]
    assert all(evaluation.folder.exists(name) for name in announced)


def test_an_interpolation_goes_from_one_held_out_original_to_another(evaluation: Evaluation):
    rows = [row for row in given.sample_table(evaluation).to_pylist() if row["held_out"]]
    with evaluation.folder.open(INTERPOLATION_FILE) as file:
        strip = Image.open(file).convert("RGB")
    tiles = [strip.crop((8 + n * 136, 24, 136 + n * 136, 152)) for n in range(8)]
    assert strip.width == 8 * 136 + 8
    for tile, row in ((tiles[0], rows[0]), (tiles[-1], rows[1])):
        original = Image.open(io.BytesIO(row["original"])).convert("RGB")
        shown = original.resize((128, 128), Image.Resampling.NEAREST)  # four times as large
        assert tile.tobytes() == shown.tobytes()
    steps = [np.asarray(tile, float) for tile in tiles[1:-1]]
    reach = np.abs(steps[0] - steps[-1]).mean()
    assert 0 < max(np.abs(a - b).mean() for a, b in pairwise(steps)) < reach


@pytest.mark.slow
@pytest.mark.ray
def test_ray_workers_generate_all_shards_and_their_inputs_are_deleted_afterwards(
    store: Store, stage: Evaluate
):
    stage = replace(stage, config=given.evaluate_config(seed=5, variations=0))
    settings = RunSettings(
        resources={"evaluate": Resources(workers=2, cpus=1)}, cluster=ClusterSettings(cpus=2)
    )
    run_plan(make_plan(Graph([stage]), store, Scope()), store, settings)
    made = load_artifact(store, stage)
    assert given.sample_table(made).num_rows == 10 + 9
    assert read_metrics(made)
    assert not Path(made.folder.file(".inputs")).joinpath("samples-00000.parquet").exists()


def test_noise_follows_from_seed_key_and_purpose():
    def draw(seed: int, key: str, purpose: str) -> torch.Tensor:
        return torch.randn(4, generator=row_generator(seed, key, purpose))

    noise = draw(0, "a", "generated")
    assert torch.equal(noise, draw(0, "a", "generated"))
    for other in ((1, "a", "generated"), (0, "b", "generated"), (0, "a", "untrained")):
        assert not torch.equal(noise, draw(*other))


def test_rows_are_the_smallest_keys_over_all_shards(store: Store, stage: Evaluate):
    selection = make(store, stage.selection)
    rows = choose(selection, 5, held_out=True)
    tables = [selection.read(name).to_pylist() for name in selection.shards]
    keys = sorted(r["key"] for table in tables for r in table if r["held_out"])
    assert [row.key for row in rows] == keys[:5]


def test_embeddings_of_other_pairs_are_refused(store: Store, stage: Evaluate):
    embeddings = make(store, stage.embeddings)
    with pytest.raises(PipelineError, match="made from different pairs"):
        read_rows(embeddings, [Row("no such key", True, "00000", 0, 0)], ("key",), "position")


@pytest.mark.parametrize("field", ["held_out_samples", "probe_samples", "batch_size"])
def test_counts_that_leave_nothing_to_measure_are_refused(field: str):
    with pytest.raises(ConfigError, match=f"evaluate.{field}=0"):
        replace(given.evaluate_config(), **{field: 0})


@pytest.mark.parametrize("name", ["fidelity", "a/b"])
def test_priors_whose_metrics_would_be_ambiguous_are_refused(stage: Evaluate, name: str):
    with pytest.raises(ConfigError, match=f"priors.{name} cannot be evaluated under this name"):
        replace(stage, priors=given.given_models(**{name: given.small_ar_prior()}))


def test_an_evaluation_needs_a_prior(stage: Evaluate):
    with pytest.raises(ConfigError, match="needs a prior"):
        replace(stage, priors={})


def test_the_nearest_training_image_is_that_of_an_exhaustive_search(
    evaluation: Evaluation, stage: Evaluate, store: Store
):
    pairs, selection = (load_artifact(store, s) for s in (stage.pairs, stage.selection))
    images = {}
    for name in selection.shards:
        rows = pq.read_table(pairs.url(name)).to_pylist()
        for one in select_rows(selection.url(name), held_out=False).to_pylist():
            images[one["key"]] = decode_pixels(rows[one["row"]]["image"], 32)
    nearest = evaluation.folder.read_table(NEAREST_FILE).to_pylist()
    samples = {row["key"]: row for row in given.sample_table(evaluation).to_pylist()}
    assert {row["key"] for row in nearest} == set(samples)

    def features(image: np.ndarray) -> np.ndarray:
        return np.asarray(gradients(resize(Image.fromarray(image), SIDE)[None] / 255)[0])

    for row in nearest:
        of_sample = features(pixels(samples[row["key"]]["generated"]).astype(np.uint8))
        distances = {k: np.linalg.norm(features(i) - of_sample) for k, i in images.items()}
        assert row["nearest_key"] == min(distances, key=lambda key: distances[key])
        assert (pixels(row["nearest"]) == images[row["nearest_key"]]).all()
