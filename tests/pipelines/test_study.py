"""The study: variants differ in one setting only; captions and noise are the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.artifacts import Study
from pipelines.config.files import ConfigFileError
from pipelines.config.load import load_config
from pipelines.core.errors import PipelineError
from pipelines.core.store import Store
from pipelines.evaluation.images import encode_png
from pipelines.evaluation.model_worker import row_generator
from pipelines.evaluation.pipeline import load_pipeline
from pipelines.graph import unclip_graph
from pipelines.stages.study import RunStudy, StudyConfig
from pipelines.study.config import SceneProbe
from tests.pipelines import given
from tests.pipelines.local import make
from tests.pipelines.page import Page
from tests.pipelines.test_evaluate import pixels
from tests.pipelines.test_report import read_html, report_of
from unclip.config import ConfigError
from unclip.output import to_images

CONFIG = StudyConfig(
    captions=8,
    prior_guidance=(1.0, 2.0),
    decoder_guidance=(1.0, 2.0, 4.0),
    scenes=SceneProbe(version=1, per_kind=8),
    batch_size=4,
)
STANDARD = "source/prior"  # given.sampling has a guidance scale of 2 in both models
NAMES = [
    "source/no_embedding",
    "source/text_embedding",
    "source/prior",
    "source/ar",
    "source/true_embedding",
    "source/caption_only",
    "prior_guidance/1",
    "prior_guidance/2",
    "decoder_guidance/1",
    "decoder_guidance/2",
    "decoder_guidance/4",
]


def study_stage(**changes: Any) -> RunStudy:
    evaluate = given.evaluate_stage(given.evaluate_config(), ar=given.small_ar_prior())
    baseline = replace(given.small_models().decoder, image_dropout=1.0)
    return RunStudy(
        evaluation=evaluate,
        clip=evaluate.clip,
        priors=evaluate.priors,
        decoder=evaluate.decoder,
        upsamplers=evaluate.upsamplers,
        baselines={"caption_only": given.GivenModel(baseline, seed=1, name="caption_only")},
        evaluate=evaluate.config,
        config=replace(CONFIG, **changes),
        name="study",
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def study(store: Store) -> Study:
    return make(store, study_stage())


@pytest.fixture(scope="module")
def records(study: Study) -> dict[str, dict[str, Any]]:
    return {record["name"]: record for record in study.folder.read_json("study.json")["variants"]}


@pytest.fixture(scope="module")
def html(store: Store, study: Study) -> str:
    stage = study_stage()
    report = replace(report_of(stage.evaluation), study=stage)  # type: ignore[arg-type]
    return read_html(make(store, report))


def images_of(study: Study) -> dict[str, dict[str, bytes]]:
    """By variant and key."""
    files = [n for n in study.folder.files() if n.startswith("captions-") and "parquet" in n]
    table = pa.concat_tables([study.folder.read_table(n) for n in files])
    found: dict[str, dict[str, bytes]] = {}
    for row in table.to_pylist():
        found.setdefault(row["variant"], {})[row["key"]] = row["image"]
    return found


def test_every_variant_draws_every_caption_once(study: Study) -> None:
    images = images_of(study)
    assert sorted(images) == sorted(NAMES) == sorted(study.variants)
    keys = {frozenset(by_key) for by_key in images.values()}
    assert len(keys) == 1
    assert study.captions == len(next(iter(keys))) == 8


def test_variants_with_equal_settings_draw_equal_images_and_others_do_not(study: Study) -> None:
    images = images_of(study)
    assert images["prior_guidance/2"] == images["decoder_guidance/2"] == images[STANDARD]
    different = [n for n in NAMES if n not in ("prior_guidance/2", "decoder_guidance/2")]
    for key in images[STANDARD]:
        assert len({images[name][key] for name in different}) == len(different)


def test_images_do_not_depend_on_the_batch(store: Store, study: Study) -> None:
    other = images_of(make(store, study_stage(batch_size=8, scenes=None)))
    for variant, by_key in images_of(study).items():
        assert all(similar(other[variant][key], image) for key, image in by_key.items())


def similar(one: bytes, other: bytes) -> bool:
    """Whether two images are equal but for the rounding of batched products."""
    return bool(np.abs(pixels(one) - pixels(other)).max() <= 1)


def test_without_an_embedding_the_decoder_knows_the_caption_only(
    store: Store, study: Study
) -> None:
    stage = study_stage()
    evaluate = stage.evaluation
    weights = evaluate.weights(lambda each: make(store, each))  # type: ignore[attr-defined]
    pipeline = load_pipeline(weights, stage.evaluate.sampling, torch.device("cpu"))
    rows = given.sample_table(make(store, evaluate)).to_pylist()
    row = next(row for row in rows if row["key"] in images_of(study)[STANDARD])
    tokens = pipeline.tokenize([row["caption"]])
    for name, embeds in {
        "source/no_embedding": None,
        "source/text_embedding": torch.tensor([row["text_embeds"]]),
        "source/true_embedding": torch.tensor([row["image_embeds"]]),
    }.items():
        noise = [row_generator(stage.evaluate.seed, row["key"], "study decoder")]
        small = pipeline.cascade.decode(embeds, tokens, generator=noise)
        final = pipeline.cascade.upsample(small, generator=noise)[-1]
        drawn = images_of(study)[name][row["key"]]
        assert similar(encode_png(to_images(final)[0]), drawn)


def test_the_standard_variant_gains_nothing_over_itself(
    records: dict[str, dict[str, Any]],
) -> None:
    for gain in records[STANDARD]["gains"].values():
        assert gain == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_gain_is_positive_where_the_variant_is_better(
    records: dict[str, dict[str, Any]],
) -> None:
    for record in records.values():
        for metric, gain in record["gains"].items():
            value, standard = (
                each["figures"][metric]["value"] for each in (record, records[STANDARD])
            )
            better = value < standard if metric.endswith("kid") else value > standard
            assert better == (gain["value"] > 0)


def test_scenes_are_drawn_and_checked_by_a_program(study: Study, html: str) -> None:
    records = study.folder.read_json("study.json")["scenes"]
    assert [record["kind"] for record in records] == ["single", "binding", "counting", "text"]
    for record in records:
        assert record["drawn"] == 1  # the checker approves of the program's own drawings
        assert record["by_chance"] == record["shares"]["is_right"]["value"] == 0  # untrained
    parts = {record["kind"]: set(record["shares"]) for record in records}
    assert parts["text"] == {"is_right", "has_colours", "has_text"}
    assert {"has_relation", "has_binding"} <= parts["binding"]
    assert "<td>counting<small>8 scenes</small></td>" in html


def test_too_few_evaluated_captions_are_refused(tmp_path: Path) -> None:
    few = given.evaluate_stage(
        given.evaluate_config(held_out_samples=7, training_samples=2, probe_samples=1, variations=0)
    )
    stage = replace(study_stage(), evaluation=few, evaluate=few.config)
    with pytest.raises(PipelineError, match=r"7 held-out captions were evaluated.*needs 8"):
        make(Store(str(tmp_path)), stage)


def test_the_report_shows_every_variant_with_its_images(html: str, study: Study) -> None:
    page = Page(html)
    assert html.count('alt="drawn"') == 8 * len(study.variants)
    assert "the caption's CLIP embedding, as if it were an image's" in page.text
    assert "baseline caption only: a decoder trained without embeddings" in page.text
    assert page.text.count("the standard settings") >= 3
    assert "caption only" in page.text  # the baseline's curve and its row among the trainings


def test_a_baseline_inherits_from_the_decoder() -> None:
    config = load_config(
        "demo",
        [
            "study={captions: 16, batch_size: 8}",
            "decoder.steps=77",
            "baselines.caption_only.model.image_dropout=1.0",
        ],
    )
    baseline = config.baselines["caption_only"]
    assert baseline.model == replace(config.decoder.model, image_dropout=1.0)  # type: ignore[type-var]
    assert baseline.training == config.decoder.training
    graph = unclip_graph(config)
    assert {"caption_only", "study"} < set(graph.stages)
    assert (
        graph["evaluate"].key
        == unclip_graph(load_config("demo", ["decoder.steps=77"]))["evaluate"].key
    )


STUDY = "study={captions: 9, batch_size: 9}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["baselines.b.seed=1"], "study is null, so nothing would compare them"),
        (["study={captions: 3, batch_size: 8}"], "captions=3 is too few"),
        (["study={captions: 9, batch_size: 0}"], "batch_size=0 must be at least 1"),
        ([STUDY, "study.scenes={version: 7, per_kind: 9}"], "version=7 is unknown"),
        ([STUDY, "study.scenes={version: 1, per_kind: 2}"], "per_kind=2 is too few"),
        (
            [
                "study={captions: 9, batch_size: 9, decoder_guidance: [3]}",
                "decoder.model.text_dropout=0",
                "evaluate.sampling.decoder.guidance_scale=1",
            ],
            "never learned its null condition",
        ),
        ([STUDY, "baselines.prior={}"], "two stages are named prior"),
        ([STUDY, "priors.true_embedding.kind=linear"], "a model is named true_embedding"),
        ([STUDY, "baselines.b.model.image_size=32"], "image_size"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises((ConfigFileError, ConfigError), match=message):
        load_config("demo", overrides)
