"""Evaluation of several priors, of any kind and in any order, on the same captions."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.artifacts.schema import predicted_by
from pipelines.core.store import Store
from pipelines.stages.evaluate import Evaluate, read_metrics
from tests.pipelines import given
from tests.pipelines.local import make
from unclip import presets
from unclip.config import Config

DIFFUSION, AUTOREGRESSIVE = given.small_models().prior, given.small_ar_prior()
LINEAR, ECLIPSE = presets.tiny_linear_prior(), presets.tiny_eclipse_prior()


def stage_of(sampler: str = "ddim") -> Evaluate:
    few = given.evaluate_config(
        held_out_samples=9, training_samples=2, probe_samples=1, variations=0
    )
    sampling = replace(few.sampling, prior=replace(few.sampling.prior, sampler=sampler))
    return given.evaluate_stage(replace(few, sampling=sampling))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.mark.parametrize("sampler", ["ddim", "analytic_dpm"])
@pytest.mark.parametrize(
    ("first", "second"),
    [(DIFFUSION, AUTOREGRESSIVE), (AUTOREGRESSIVE, DIFFUSION), (LINEAR, ECLIPSE)],
)
def test_both_priors_predict_for_every_caption_with_any_sampler(
    store: Store,
    sampler: str,
    first: Config,
    second: Config,
) -> None:
    stage = replace(stage_of(sampler), priors=given.given_models(main=first, other=second))
    rows = given.sample_table(make(store, stage))
    for column in ("predicted_image_embeds", predicted_by("other")):
        predicted = np.array(rows[column].to_pylist())
        assert np.allclose(np.linalg.norm(predicted, axis=-1), 1, atol=1e-4)


def test_other_priors_are_measured_by_the_same_metrics_and_change_no_image(store: Store) -> None:
    stage = stage_of()
    alone = make(store, stage)
    names = ["prior", "ar", "deep"]
    others = given.given_models(ar=AUTOREGRESSIVE, deep=replace(DIFFUSION, depth=2))
    compared = make(store, replace(stage, priors={**stage.priors, **others}))
    first, both = given.sample_table(alone), given.sample_table(compared)
    assert set(both.column_names) - set(first.column_names) == set(map(predicted_by, others))
    assert both["generated"].equals(first["generated"])

    def metrics_of(prior: str) -> dict[str, float]:
        records = [record["name"].split("/") for record in read_metrics(compared).values()]
        return {
            name: compared.metrics[f"held_out/{prior}/{name}"]
            for subject, name in records
            if subject == prior
        }

    metrics = [metrics_of(name) for name in names]
    assert {"cosine", "cosine_over_mean", "retrieval_at_1"} <= set(metrics[0])
    assert metrics[0].keys() == metrics[1].keys() == metrics[2].keys()
    assert len({m["cosine"] for m in metrics}) == 3
    assert not [name for name in read_metrics(alone) if "ar/" in name or "deep/" in name]
