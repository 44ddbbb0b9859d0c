"""Karlo, fine-tuned by the pipeline."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.artifacts import MODEL_FILE
from pipelines.config.load import ConfigFileError, load_config
from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.core.store import Store
from pipelines.core.tables import to_numpy
from pipelines.graph import unclip_graph
from pipelines.stages.train import LoaderSettings, TrainModel
from pipelines.training import initial_weights
from tests.pipelines import given
from tests.pipelines.local import context, make
from tests.pipelines.test_init_from import QUICK
from tests.pipelines.training import TrainingContext, given_rows
from tests.unclip import karlo_configs
from unclip.checkpoint import config_metadata, load_model, save_model
from unclip.clip.frozen import FrozenClip
from unclip.config import Config
from unclip.kinds import build
from unclip.presets import karlo

PARTS = ("prior", "decoder", "upsampler_1")
TEXT = replace(
    karlo_configs.TEXT,
    vocab_size=49408,
    context_length=given.CONTEXT_LENGTH,
    width=64,
    embed_dim=64,
)
SMALL = {
    "prior": replace(karlo_configs.PRIOR, embed_dim=64, text_encoder=TEXT),
    "decoder": replace(karlo_configs.DECODER, embed_dim=64, text_encoder=TEXT),
}


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of Karlo's sizes with nothing in them, beside which the configuration is used."""
    monkeypatch.setattr(initial_weights, "file_digest", lambda url: url)  # of gigabytes of zeros
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "karlo"
    folder.mkdir()
    preset = karlo()
    for name, config in preset.models.items():
        write_hollow(folder / f"{name}.safetensors", config)
    return folder


def write_hollow(path: Path, config: Config) -> None:
    """What `save_model` writes, as a file that takes no room on a disk."""
    with torch.device("meta"):
        tensors = build(config).state_dict()
    header: dict[str, Any] = {"__metadata__": config_metadata(config)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": [*tensor.shape], "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


def test_the_packaged_configuration_is_planned_with_the_sizes_of_the_released_weights(
    imported: Path,
) -> None:
    config = load_config("karlo", ["source.urls=demo"])
    assert {name: section.model for name, section in config.models.items()} == karlo().models
    graph = unclip_graph(config)
    assert "upsampler_2" not in graph.stages
    assert {*PARTS, "evaluate", "report"} < set(graph.stages)
    for name in PARTS:
        stage = graph[name]
        assert isinstance(stage, TrainModel)
        assert stage.init_from == f"karlo/{name}.safetensors"
        stage.check()


def test_another_karlo_than_the_configured_one_is_refused(imported: Path) -> None:
    config = load_config("karlo", ["source.urls=demo", "decoder.model.text_dropout=0.5"])
    with pytest.raises(PipelineError, match=r"text_dropout: 0\.3 → 0\.5"):
        unclip_graph(config)["decoder"].check()


def test_a_frozen_text_tower_without_weights_is_refused() -> None:
    for part in ("priors.prior", "decoder"):
        with pytest.raises(ConfigFileError, match=rf"{part}\.init_from is null.*frozen"):
            load_config("karlo", [f"{part}.init_from=null"])


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("karlo", "decoder.kind=paper"),
        ("karlo", "priors.prior.kind=diffusion"),
        ("demo", "priors.prior.kind=karlo"),
    ],
)
def test_karlos_models_are_not_mixed_with_others(name: str, setting: str) -> None:
    with pytest.raises(ConfigFileError):
        load_config(name, [setting])


def test_embeddings_and_norms_give_back_what_clip_made(store: Store) -> None:
    pairs, embeddings, _ = (make(store, stage) for stage in given_rows())
    name = next(iter(pairs.shards))
    table = embeddings.read(name)
    unit, norms = to_numpy(table["image_embeds"]), table["image_norm"].to_numpy()
    torch.testing.assert_close(torch.tensor(unit).norm(dim=-1), torch.ones(len(unit)))

    folder = make(store, given.GivenClip()).folder.local()
    clip = FrozenClip.load(folder, device=torch.device("cpu"))
    pictures = [
        Image.open(io.BytesIO(image)).convert("RGB")
        for image in pairs.read(name)["image"].to_pylist()
    ]
    with torch.no_grad():
        made = clip.model.encode_image(clip.preprocess(pictures))  # type: ignore[operator]
    assert made.norm(dim=-1).sub(1).abs().min() > 0.01
    torch.testing.assert_close(torch.tensor(unit * norms[:, None]), made, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["prior", "decoder"])
def test_a_stage_trains_karlos_model_and_leaves_its_text_tower_alone(
    name: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    path, config = tmp_path / "weights.safetensors", SMALL[name]
    save_model(path, build(config))
    rows = given_rows()
    for row in rows:
        make(store, row)
    loader = LoaderSettings(shuffle_rows=256)
    stage = TrainModel(*rows, config, QUICK, loader, init_from=str(path), name=name)
    folder = Folder(str(tmp_path / "out"))
    made = stage.run(context(store, stage, folder=folder, kind=TrainingContext))
    assert made.model == config.tag
    before, after = (load_model(p).state_dict() for p in (path, made.folder.local(MODEL_FILE)))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(name.startswith("text_encoder.") for name in moved)
