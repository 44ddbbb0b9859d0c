"""The linear and the ECLIPSE prior in the pipeline."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.artifacts import MODEL_FILE
from pipelines.config.files import ConfigFileError
from pipelines.config.load import load_config
from pipelines.core.store import Store
from pipelines.graph import unclip_graph
from pipelines.stages.train import LoaderSettings, TrainModel
from tests.pipelines.local import context, make
from tests.pipelines.training import TrainingContext, given_rows
from unclip import presets
from unclip.checkpoint import load_model
from unclip.config import Config

BOTH = ["priors.linear.kind=linear", "priors.eclipse.kind=eclipse"]


@pytest.mark.parametrize(("name", "preset"), [("demo", "tiny"), ("small", "small"), ("paper",) * 2])
def test_the_preset_fills_in_both_and_the_first_prior_how_to_train_them(
    name: str, preset: str
) -> None:
    priors = load_config(name, BOTH).priors
    for kind in ("linear", "eclipse"):
        assert priors[kind].model == getattr(presets, f"{preset}_{kind}_prior")()
        assert priors[kind].training == priors["prior"].training


def test_both_are_trained_beside_the_first_prior_and_rerun_just_the_comparison() -> None:
    base, compared = unclip_graph(load_config("demo")), unclip_graph(load_config("demo", BOTH))
    assert set(compared.stages) - set(base.stages) == {"linear", "eclipse"}
    different = {stage for stage in base.stages if base[stage].key != compared[stage].key}
    assert different == {"evaluate", "report"}


def test_only_a_prior_that_reads_captions_needs_the_context_of_the_decoder() -> None:
    load_config("demo", ["priors.prior.kind=linear"])
    shorter = "priors.prior.model.text_encoder.context_length=16"
    with pytest.raises(ConfigFileError, match=r"context_length=16 and that of decoder\.model, 24"):
        load_config("demo", ["priors.prior.kind=eclipse", shorter])


@pytest.mark.parametrize("model", [presets.tiny_linear_prior(), presets.tiny_eclipse_prior()])
def test_a_stage_trains_and_saves_it(model: Config, tmp_path: Path) -> None:
    training = replace(
        load_config("demo").priors["prior"].training,
        steps=2,
        warmup_steps=1,
        batch_size=8,
        log_every_steps=1,
        sample_every_steps=1,
    )
    stage = TrainModel(*given_rows(), model, training, LoaderSettings(shuffle_rows=256))
    store = Store(str(tmp_path))
    for dependency in stage.dependencies.values():
        make(store, dependency)
    trained = stage.run(context(store, stage, kind=TrainingContext))
    assert (trained.steps, trained.model) == (2, model.tag)
    loaded = load_model(trained.folder.local(MODEL_FILE))
    assert loaded.config == model
