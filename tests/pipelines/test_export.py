"""What a project trained, as a folder for diffusers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import pytest
import torch
from diffusers.pipelines import deprecated

from pipelines.artifacts import TrainedModel
from pipelines.cli import models as cli_models
from pipelines.cli.main import main
from pipelines.cli.options import ProjectChoice
from pipelines.cli.project import Project
from pipelines.config.load import load_config
from pipelines.core.stage import Artifact, Context, Graph, Stage
from pipelines.core.store import Store
from tests.pipelines import given
from tests.pipelines.local import make
from tests.unclip import karlo_toys as toys
from unclip.checkpoint import save_model
from unclip.interop import read_pipeline


@dataclass(frozen=True)
class Tuned(Stage[TrainedModel]):
    """A model from a file, as a training that began with it leaves one."""

    artifact: ClassVar[type[Artifact]] = TrainedModel

    file: str

    def run(self, ctx: Context) -> TrainedModel:
        ctx.folder.publish(Path(self.file), "model.safetensors")
        return TrainedModel(ctx.folder, parameters=1, steps=1, final_loss=None)


@dataclass(frozen=True)
class TunedPrior(Tuned):
    kind: ClassVar[str] = "prior"


@dataclass(frozen=True)
class TunedDecoder(Tuned):
    kind: ClassVar[str] = "decoder"


@dataclass(frozen=True)
class TunedUpsampler(Tuned):
    kind: ClassVar[str] = "upsampler_1"


def use(
    models: Mapping[str, Stage[Any] | None],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let the command find a project whose trainings made these models."""
    config = given.evaluate_config()
    stage = replace(given.evaluate_stage(config), **models)
    embeddings = given.GivenEmbeddings(stage.pairs, stage.clip)
    selection = given.GivenSelection(embeddings)
    stage = replace(stage, embeddings=embeddings, selection=selection)
    for name in ("clip", "prior", "decoder", "upsampler_1", "upsampler_2"):
        if (part := getattr(stage, name)) is not None:
            make(store, part)
    settings = replace(load_config("demo"), evaluate=config)
    project = Project(ProjectChoice("demo", None, ()), settings, Graph([stage]), store)
    monkeypatch.setattr(cli_models, "open_project", lambda choice: project)


def test_what_the_pipeline_trained_of_karlo_opens_in_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toys.save(toys.text_to_image(tmp_path / "tokenizer"), tmp_path / "theirs")
    cascade = read_pipeline("theirs").cascade
    cascade.decoder.unet.out.bias.data += 1  # what a training does to weights
    for name, model in cascade.models.items():
        save_model(f"{name}.safetensors", model)
    models = {
        "clip": given.GivenClip(toys.EMBED),
        "prior": TunedPrior("prior.safetensors"),
        "decoder": TunedDecoder("decoder.safetensors"),
        "upsampler_1": TunedUpsampler("upsampler_1.safetensors"),
        "upsampler_2": None,
    }
    use(models, Store(str(tmp_path / "store")), monkeypatch)
    assert main(["--debug", "export", "--to", "out"]) == 0

    monkeypatch.setattr(diffusers.pipelines, "unclip", deprecated.unclip, raising=False)
    opened = diffusers.UnCLIPPipeline.from_pretrained("out")
    assert torch.equal(opened.decoder.conv_out.bias, cascade.decoder.unet.out.bias)
    again = read_pipeline("out").cascade
    for name, model in cascade.models.items():
        weights = again.models[name].state_dict()
        assert all(torch.equal(weights[n], w) for n, w in model.state_dict().items())


def test_models_of_the_papers_architecture_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for second, message in (({}, "upsampler_2 cannot"), ({"upsampler_2": None}, "decoder cannot")):
        use(second, Store(str(tmp_path / "store")), monkeypatch)
        assert main(["export", "--to", "out"]) == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert "\n" not in said
        assert [path.name for path in Path().iterdir()] == ["store"]
