"""A prior on the frozen CLIP's hidden states, from the configuration to a model that draws."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.artifacts import MODEL_FILE
from pipelines.config.load import ConfigFileError, load_config
from pipelines.core.store import Store
from pipelines.graph import unclip_graph
from pipelines.stages.train import LoaderSettings, TrainModel
from tests.pipelines import given
from tests.pipelines.local import context, make
from tests.pipelines.training import TrainingContext, given_rows
from unclip.checkpoint import load_model
from unclip.clip.frozen import FrozenClip
from unclip.models import FrozenTextConfig

CPU = torch.device("cpu")
TOWER = FrozenTextConfig(  # of `given.GivenClip`
    vocab_size=49408, context_length=24, width=64, depth=1, heads=2, quick_gelu=False
)
ON_CLIP = [
    f"priors.{name}.model.text_encoder.{key}={value}"
    for name in ("prior", "ar")
    for key, value in {
        "context_length": 16,
        "width": 96,
        "depth": 2,
        "heads": 4,
        "quick_gelu": "false",
    }.items()
]
SETTINGS = [
    *ON_CLIP,
    "priors.ar.kind=autoregressive",
    "decoder.model.text_encoder.context_length=16",
]


@pytest.mark.parametrize("kind", ["diffusion", "autoregressive"])
def test_a_prior_is_trained_around_the_tower_of_the_clip(kind: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows, clip = given_rows(), given.GivenClip()
    training = replace(
        load_config("demo").priors["prior"].training,
        steps=2,
        warmup_steps=1,
        batch_size=8,
        log_every_steps=1,
    )
    settings = (training, LoaderSettings(shuffle_rows=256))
    if kind == "diffusion":
        model = replace(given.small_models().prior, text_encoder=TOWER)
        stage: Any = TrainModel(*rows, model, *settings, clip=clip)
    else:
        coded = replace(given.small_ar_prior(), text_encoder=TOWER)
        stage = TrainModel(*rows, coded, *settings, pca=given.GivenPca(), clip=clip)
    for dependency in stage.dependencies.values():
        make(store, dependency)
    trained = stage.run(context(store, stage, kind=TrainingContext))
    loaded: Any = load_model(trained.folder.local(MODEL_FILE))
    theirs = FrozenClip.load(make(store, clip).folder.local(), device=CPU).model.state_dict()
    assert torch.equal(loaded.text_encoder.embed.weight, theirs["token_embedding.weight"])
    assert torch.equal(loaded.text_encoder.positions, theirs["positional_embedding"])
    assert trained.steps == 2


def test_the_configuration_chooses_the_encoder_and_the_graph_hands_it_the_clip() -> None:
    graph = unclip_graph(load_config("demo", SETTINGS))
    for name in ("prior", "ar"):
        assert graph[name].dependencies["clip"] is graph["clip"]
    plain = unclip_graph(load_config("demo"))
    assert "clip" not in plain["prior"].dependencies


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "priors.prior.model.text_encoder.depth=3",
            "'priors.prior.model.text_encoder' has|priors.prior.model.text_en",
        ),
        ("priors.prior.model.text_encoder.depht=3", "depht is not a setting; did you mean depth"),
        ("priors.prior.model.text_encoder.quick_gelu=7", "quick_gelu is 7: "),
    ],
)
def test_settings_of_the_tower_that_cannot_work_are_told_once(setting: str, message: str) -> None:
    with pytest.raises(ConfigFileError, match=message) as error:
        load_config("demo", [*SETTINGS, setting])
    assert "EncoderConfig" not in str(error.value)
    assert "FrozenTextConfig" not in str(error.value)


def test_an_encoder_that_is_trained_is_told_of_its_own_settings_alone() -> None:
    with pytest.raises(ConfigFileError, match="depth is 'x'") as error:
        load_config("demo", ["priors.prior.model.text_encoder.depth=x"])
    assert "quick_gelu" not in str(error.value)
