"""Evaluation of models with random weights: what it must hold whatever they draw."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageDraw

from pipelines.artifacts import Evaluation
from pipelines.artifacts.schema import THUMBNAIL_SIDE
from pipelines.core.errors import PipelineError
from pipelines.core.events import Event, Metrics, Output
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.stage import Graph, load_artifact
from pipelines.core.store import Store
from pipelines.evaluation.colour import distances, foreground_colours, share_closer_to_own
from pipelines.evaluation.images import read_thumbnails, thumbnail
from pipelines.evaluation.metric_suite import MetricSuite
from pipelines.evaluation.noise import RowNoise, row_generator
from pipelines.evaluation.rows import Row, choose, read_rows
from pipelines.evaluation.samples import COLUMNS, Samples
from pipelines.stages.evaluate import Evaluate, read_metrics
from tests.pipelines import given
from tests.pipelines.local import make
from unclip.config import ConfigError

PICTURES = ("original", "generated", "generated_small", "generated_middle", "untrained")
WIDTH = 16


def sample_table(evaluation: Evaluation) -> pa.Table:
    names = [n for n in evaluation.folder.files() if n.endswith(".parquet")]
    return pa.concat_tables([evaluation.folder.read_table(n) for n in names]).sort_by("key")


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
    table = sample_table(evaluation)
    assert table["held_out"].to_pylist().count(True) == 10
    assert table["held_out"].to_pylist().count(False) == 9
    assert len(set(table["key"].to_pylist())) == table.num_rows


def test_only_probes_are_decoded_from_embeddings(evaluation: Evaluation):
    rows = sample_table(evaluation).to_pylist()
    probes = [row for row in rows if row["variations"] is not None]
    assert len(probes) == 2 * 4
    assert {len(row["variations"]) for row in probes} == {2}
    for row in rows:
        decoded = {row["from_true_embedding"] is not None, row["variation_embeds"] is not None}
        assert decoded == {row in probes}


def test_pictures_have_the_sizes_of_the_cascade(evaluation: Evaluation):
    row = sample_table(evaluation).to_pylist()[0]
    sizes = [pixels(row[name]).shape[0] for name in PICTURES]
    assert sizes == [32, 32, 8, 16, 32]


def test_embeddings_of_a_row_are_those_of_its_own_pair(evaluation: Evaluation, store: Store):
    stored = load_artifact(store, given.evaluate_stage(given.evaluate_config()).embeddings)
    known = {r["key"]: r for name in stored.rows for r in stored.read(name).to_pylist()}
    for row in sample_table(evaluation).to_pylist():
        assert np.allclose(row["image_embeds"], known[row["key"]]["image_embeds"])
        assert np.allclose(np.linalg.norm(row["predicted_image_embeds"]), 1, atol=1e-4)


def test_a_picture_follows_from_seed_and_key_whatever_shard_it_is_drawn_in(store: Store):
    few = given.evaluate_config(
        held_out_samples=3, training_samples=2, probe_samples=1, variations=0
    )
    configs = [few, replace(few, batch_size=2), replace(few, seed=4)]
    tables = [sample_table(make(store, given.evaluate_stage(c))) for c in configs]
    for row, same, different in zip(*(table.to_pylist() for table in tables), strict=True):
        assert row["key"] == same["key"] == different["key"]
        for name in PICTURES:
            # Batches of another size are summed in another order.
            assert np.abs(pixels(row[name]) - pixels(same[name])).mean() < 0.5
        assert np.abs(pixels(row["generated"]) - pixels(different["generated"])).mean() > 5


def test_every_metric_tells_value_baseline_direction_and_meaning(
    evaluation: Evaluation, events: list[Event]
):
    records = read_metrics(evaluation)
    assert {name.split("/")[0] for name in records} == {"held_out", "training"}
    for name, record in records.items():
        assert np.isfinite([record["value"], record["baseline"]]).all()
        assert record["meaning"]
        assert record["baseline_name"]
        better = record["value"] - record["baseline"]
        assert record["beats_baseline"] == (
            better > 0 if record["higher_is_better"] else better < 0
        )
        assert evaluation.metrics[name] == record["value"]
        assert evaluation.metrics[f"{name}_baseline"] == record["baseline"]
    assert Metrics("evaluate", 0, evaluation.metrics) in events


def test_grids_and_metrics_are_announced_and_there(evaluation: Evaluation, events: list[Event]):
    announced = [event.file for event in events if isinstance(event, Output)]
    assert announced == [
        "metrics.json",
        "samples-held_out.png",
        "reconstructions-held_out.png",
        "samples-training.png",
        "reconstructions-training.png",
    ]
    assert all(evaluation.folder.exists(name) for name in announced)


@pytest.mark.ray
def test_ray_workers_draw_all_shards_and_their_inputs_are_gone_afterwards(
    store: Store, stage: Evaluate
):
    stage = replace(stage, config=given.evaluate_config(seed=5, variations=0))
    settings = RunSettings(
        resources={"evaluate": Resources(workers=2, cpus=1)}, cluster=ClusterSettings(cpus=2)
    )
    run_plan(make_plan(Graph([stage]), store, Scope()), store, settings)
    made = load_artifact(store, stage)
    assert sample_table(made).num_rows == 10 + 9
    assert read_metrics(made)
    assert not Path(made.folder.file(".inputs")).joinpath("samples-00000.parquet").exists()


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)
    vectors[:, 0] += 4  # as those of a CLIP, which lie in a cone
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def disc(colour: Sequence[int], background: str = "white") -> Image.Image:
    image = Image.new("RGB", (64, 64), background)
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=tuple(colour))
    return image


def drawn(rows: int, *, perfect: bool) -> Samples:
    """Samples of a generator that draws each caption's own picture, or another's."""
    images, other = unit(rows, 0), np.roll(unit(rows, 0), 3, axis=0)
    colours = np.random.default_rng(1).integers(0, 200, (rows, 3)).tolist()
    own = [thumbnail(disc(colour)) for colour in colours]
    wrong = [*own[3:], *own[:3]]
    made = images if perfect else other
    columns: dict[str, Any] = {
        "key": [f"{n:03d}" for n in range(rows)],
        "held_out": [True] * rows,
        "image_embeds": list(images),
        "text_embeds": list(images),
        "predicted_image_embeds": list(made),
        "second_predicted_image_embeds": [None] * rows,
        "generated_embeds": list(made),
        "untrained_embeds": list(-images),
        "from_true_embedding_embeds": list(made),
        "from_shuffled_embedding_embeds": list(np.roll(images, 1, axis=0)),
        "original_thumbnail": own,
        "generated_thumbnail": own if perfect else wrong,
        "from_true_embedding_thumbnail": own if perfect else wrong,
        "from_shuffled_embedding_thumbnail": [*own[1:], own[0]],
    }
    return Samples(pa.table({name: columns[name] for name in COLUMNS}))


def test_a_perfect_generator_beats_every_baseline():
    measured = list(
        MetricSuite("held_out", drawn(32, perfect=True), torch.tensor(unit(32, 5))).measured()
    )
    assert len(measured) == 18
    equal = {m.name for m in measured if not m.beats_baseline}
    assert equal == {"decoder/clip_cosine_over_text", "decoder/squared_error_over_text"}
    by_name = {m.name: m.value for m in measured}
    assert by_name["fidelity/frechet_distance"] == pytest.approx(0, abs=1e-4)
    assert by_name["colour/closer_to_own"] == 1
    assert by_name["decoder/squared_error"] == 0


def test_a_generator_of_other_captions_pictures_is_faithful_to_none():
    reference = torch.tensor(unit(32, 5))
    measured = {
        m.name: m for m in MetricSuite("held_out", drawn(32, perfect=False), reference).measured()
    }
    assert measured["prior/retrieval_at_1"].value == 0
    assert measured["generated/clip_score"].value < 70
    assert 0.3 < measured["colour/closer_to_own"].value < 0.7
    assert measured["fidelity/frechet_distance"].beats_baseline  # the pictures themselves are real


def test_a_foreground_colour_does_not_depend_on_the_background():
    pictures = [disc((200, 30, 10), "white"), disc((200, 30, 10), "black")]
    colours = foreground_colours(read_thumbnails([thumbnail(p) for p in pictures]))
    assert distances(colours, colours).max() < 0.2
    assert np.abs(colours - np.array([200, 30, 10]) / 255).max() < 0.15


def test_a_picture_without_foreground_has_the_colour_of_all_of_it():
    plain = thumbnail(Image.new("RGB", (40, 40), (10, 20, 30)))
    assert len(plain) == 3 * THUMBNAIL_SIDE**2
    assert np.allclose(foreground_colours(read_thumbnails([plain])) * 255, [[10, 20, 30]])


def test_indistinguishable_colours_are_closer_to_their_own_half_the_time():
    assert share_closer_to_own(np.zeros((5, 5))) == 0.5
    assert share_closer_to_own(1 - np.eye(5)) == 1
    assert share_closer_to_own(np.eye(5)) == 0


def test_noise_of_a_row_does_not_depend_on_its_neighbours():
    def draw(keys: Sequence[str], each: int) -> torch.Tensor:
        with RowNoise([row_generator(0, key, "test") for key in keys]):
            first = torch.randn((len(keys) * each, 4), generator=torch.Generator())
            return torch.cat([first, torch.randn((len(keys) * each, 4))], dim=1)

    together, alone = draw(["a", "b", "c"], each=2), draw(["b"], each=2)
    assert torch.equal(together[2:4], alone)
    assert not torch.equal(together[:2], together[2:4])
    assert not torch.equal(alone[:, :4], alone[:, 4:])


def test_noise_outside_the_block_is_left_alone():
    expected = torch.randn(3, generator=torch.Generator().manual_seed(1))
    with RowNoise([row_generator(0, "a", "test")]):
        pass
    assert torch.equal(torch.randn(3, generator=torch.Generator().manual_seed(1)), expected)


def test_rows_are_the_smallest_keys_over_all_shards(store: Store, stage: Evaluate):
    selection = make(store, stage.selection)
    rows = choose(selection, 5, held_out=True)
    tables = [selection.read(name).to_pylist() for name in selection.rows]
    keys = sorted(r["key"] for table in tables for r in table if r["held_out"])
    assert [row.key for row in rows] == keys[:5]


def test_embeddings_of_other_pairs_are_refused(store: Store, stage: Evaluate):
    embeddings = make(store, stage.embeddings)
    with pytest.raises(PipelineError, match="made from different pairs"):
        read_rows(embeddings, [Row("no such key", True, "00000", 0)])


@pytest.mark.parametrize("field", ["held_out_samples", "probe_samples", "batch_size"])
def test_counts_that_leave_nothing_to_measure_are_refused(field: str):
    with pytest.raises(ConfigError, match=f"evaluate.{field}=0"):
        replace(given.evaluate_config(), **{field: 0})
