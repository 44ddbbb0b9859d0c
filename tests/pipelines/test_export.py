"""What a project trained, as a folder for diffusers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines import deprecated
from PIL import Image

from pipelines.artifacts import TrainedModel
from pipelines.cli import project as cli_project
from pipelines.cli.main import main
from pipelines.cli.options import ProjectChoice
from pipelines.cli.project import Project
from pipelines.config.load import load_config
from pipelines.core.graph import Graph
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.core.store import Store
from tests.pipelines import given
from tests.pipelines.given_pairs import GivenVerdicts
from tests.pipelines.local import make
from tests.unclip import karlo_toys as toys
from unclip.checkpoint import save_model
from unclip.interop import read_pipeline
from unclip.pipeline import UnclipPipeline


@dataclass(frozen=True)
class Tuned(Stage[TrainedModel]):
    """A model from a file, as a training that began with it leaves one."""

    kind: ClassVar[str] = "tuned"
    artifact: ClassVar[type[Artifact]] = TrainedModel

    file: str

    def run(self, ctx: Context) -> TrainedModel:
        ctx.folder.publish(Path(self.file), "model.safetensors")
        return TrainedModel(ctx.folder, parameters=1, steps=1, final_loss=None)


def use(changes: Mapping[str, Any], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command find a project whose trainings made these models."""
    stage = replace(given.evaluate_stage(given.evaluate_config()), **changes)
    config = given.evaluate_config(sampling=given.sampling(stage.upsamplers))
    embeddings = given.GivenEmbeddings(stage.pairs, GivenVerdicts(stage.pairs), stage.clip)
    selection = given.GivenSelection(embeddings)
    stage = replace(stage, embeddings=embeddings, selection=selection)
    demo = load_config("demo")
    upsamplers = {name: demo.upsamplers[name] for name in stage.upsamplers}
    settings = replace(demo, evaluate=config, upsamplers=upsamplers)
    project = Project(ProjectChoice("demo", None, ()), settings, Graph([stage]), store)
    for name in project.model_stages:
        make(store, project.graph[name])
    monkeypatch.setattr(cli_project, "open_project", lambda choice: project)


def test_what_the_pipeline_trained_of_karlo_opens_in_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toys.save(toys.text_to_image(tmp_path / "tokenizer"), tmp_path / "theirs")
    cascade = read_pipeline("theirs").cascade
    cascade.decoder.unet.out.bias.data += 1  # what a training does to weights
    for name, model in cascade.models.items():
        save_model(f"{name}.safetensors", model)
    tuned = {name: Tuned(f"{name}.safetensors", name=name) for name in cascade.models}
    models = {
        "clip": given.GivenClip(toys.EMBED),
        "priors": {"prior": tuned["prior"]},
        "decoder": tuned["decoder"],
        "upsamplers": {"upsampler_1": tuned["upsampler_1"]},
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


def test_what_the_pipeline_trained_draws_from_a_folder_for_unclip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    use({}, Store(str(tmp_path / "store")), monkeypatch)
    assert main(["--debug", "export", "--to", "whole", "--format", "unclip"]) == 0
    assert main(["--debug", "export", "--to", "half", "--format", "unclip", "--half"]) == 0
    whole, half = (
        sum(file.stat().st_size for file in Path(name).rglob("*.safetensors"))
        for name in ("whole", "half")
    )
    assert half < 0.6 * whole
    drawn = ["generate", "a cat", "demo", "--count", "1", "--out", "drawn"]
    assert main(["--debug", *drawn]) == 0
    again = UnclipPipeline.from_pretrained("whole")("a cat", seed=0).images[0]
    with Image.open("drawn/0000-a-cat.png") as image:
        assert np.abs(np.asarray(image, int) - np.asarray(again, int)).max() <= 1


def test_models_of_the_papers_architecture_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    one_upsampler = given.given_models(**given.small_upsamplers(1))
    changes = (({}, "upsampler_2 cannot"), ({"upsamplers": one_upsampler}, "decoder cannot"))
    for change, message in changes:
        use(change, Store(str(tmp_path / "store")), monkeypatch)
        assert main(["export", "--to", "out"]) == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert "\n" not in said
        assert [path.name for path in Path().iterdir()] == ["store"]
