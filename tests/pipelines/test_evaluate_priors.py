"""Evaluation of two priors, of either kind and in either place, on the same captions."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipelines.artifacts import Evaluation
from pipelines.core.store import Store
from pipelines.stages.evaluate import Evaluate, read_metrics
from tests.pipelines import given
from tests.pipelines.local import make
from unclip.models import ARPriorConfig, DiffusionPriorConfig

DIFFUSION, AUTOREGRESSIVE = given.small_models()[0], given.small_ar_prior()


def stage_of(sampler: str = "ddim") -> Evaluate:
    few = given.evaluate_config(
        held_out_samples=9, training_samples=2, probe_samples=1, variations=0
    )
    sampling = replace(few.sampling, prior_sampler=sampler)
    return given.evaluate_stage(replace(few, sampling=sampling))


def table_of(evaluation: Evaluation) -> pa.Table:
    names = [n for n in evaluation.folder.files() if n.endswith(".parquet")]
    return pa.concat_tables([evaluation.folder.read_table(n) for n in names]).sort_by("key")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.mark.parametrize("sampler", ["ddim", "analytic_dpm"])
@pytest.mark.parametrize(
    ("first", "second"), [(DIFFUSION, AUTOREGRESSIVE), (AUTOREGRESSIVE, DIFFUSION)]
)
def test_both_priors_draw_for_every_caption_by_any_sampler(
    store: Store,
    sampler: str,
    first: DiffusionPriorConfig | ARPriorConfig,
    second: DiffusionPriorConfig | ARPriorConfig,
) -> None:
    stage = replace(stage_of(sampler), prior=given.GivenPrior(first))
    rows = table_of(make(store, replace(stage, second_prior=given.GivenSecondPrior(second))))
    for column in ("predicted_image_embeds", "second_predicted_image_embeds"):
        predicted = np.array(rows[column].to_pylist())
        assert np.allclose(np.linalg.norm(predicted, axis=-1), 1, atol=1e-4)


def test_a_second_prior_is_measured_by_the_same_metrics_and_changes_no_picture(
    store: Store,
) -> None:
    stage = stage_of()
    alone = make(store, stage)
    compared = make(store, replace(stage, second_prior=given.GivenSecondPrior(AUTOREGRESSIVE)))
    first, both = table_of(alone), table_of(compared)
    assert first["second_predicted_image_embeds"].null_count == first.num_rows
    assert both["generated"].equals(first["generated"])

    def of(subject: str) -> set[str]:
        found = [record["name"].split("/") for record in read_metrics(compared).values()]
        return {name for of, name in found if of == subject}

    assert of("second_prior") == of("prior")
    assert {"cosine", "cosine_over_mean", "retrieval_at_1"} <= of("prior")
    assert not [name for name in read_metrics(alone) if "second" in name]
