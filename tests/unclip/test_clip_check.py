"""Checks of a custom CLIP before its weights are loaded, on small checkpoints of open_clip."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.unclip.test_clip import CAPTIONS, CPU, TINY, pictures, tiny_clip
from unclip.clip.config import WEIGHTS_FILE, ClipConfig
from unclip.clip.frozen import FrozenClip
from unclip.clip.training import build_clip
from unclip.config import ConfigError


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tiny architecture under two names: with GELU, and with QuickGELU."""
    folder = tmp_path_factory.mktemp("models")
    settings = TINY.open_clip_config()
    (folder / "checked.json").write_text(json.dumps(settings))
    (folder / "checked-quickgelu.json").write_text(json.dumps(settings | {"quick_gelu": True}))
    open_clip.add_model_config(folder)


def tiny_model(*, quick_gelu: bool = False, width: int = 32) -> open_clip.CLIP:
    torch.manual_seed(3)
    settings = replace(TINY, text_width=width, embed_dim=width // 2).open_clip_config()
    return open_clip.CLIP(**settings, quick_gelu=quick_gelu).eval()


def save_scripted(model: open_clip.CLIP, path: Path) -> None:
    """As OpenAI published its models: a TorchScript archive."""
    tokens = open_clip.SimpleTokenizer(context_length=8)(CAPTIONS)
    inputs = {"encode_image": torch.zeros(1, 3, 16, 16), "encode_text": tokens}
    torch.jit.trace_module(model, inputs, check_trace=False).save(path)


def checked(path: Path | str, model: str = "checked") -> ClipConfig:
    config = ClipConfig(model=model, pretrained=str(path))
    config.check()
    return config


def message(config: ClipConfig) -> str:
    with pytest.raises(ConfigError) as error:
        config.check()
    return str(error.value)


def of_file(path: Path, model: str = "checked") -> str:
    return message(ClipConfig(model=model, pretrained=str(path)))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_checkpoint_of_the_model_passes_and_loads(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    weights = {n: w.contiguous() for n, w in tiny_model().state_dict().items()}
    save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)
    clip = FrozenClip.from_config(checked(path), device=CPU)
    assert torch.equal(clip.model.state_dict()["text_projection"], weights["text_projection"])


def test_a_checkpoint_of_a_training_with_prefixed_names_passes(tmp_path: Path) -> None:
    weights = {f"module.{n}": w for n, w in tiny_model().state_dict().items()}
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "epoch.pt")
    FrozenClip.from_config(checked(tmp_path / "epoch.pt"), device=CPU)


def test_a_checkpoint_with_other_positions_passes_because_open_clip_resizes_them(
    tmp_path: Path,
) -> None:
    other = build_clip(replace(TINY, image_size=24, text_context_length=12))
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    FrozenClip.from_config(checked(tmp_path / "weights.pt"), device=CPU)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ClipConfig(model="ViT-B32", pretrained="openai"), "did you mean ViT-B-32"),
        (ClipConfig(model="ViT-B-32", pretrained="opnai"), "tag of ViT-B-32; did you mean openai?"),
        (ClipConfig(model="ViT-B-32", pretrained="/no/such.pt"), "'/no/such.pt' is neither a file"),
        (ClipConfig(model="local-dir:/no/such", pretrained=None), "/no/such has no open_clip_con"),
    ],
)
def test_a_name_or_path_that_leads_nowhere_is_refused(config: ClipConfig, expected: str) -> None:
    assert expected in message(config)
    with pytest.raises(ConfigError):
        FrozenClip.from_config(config, device=CPU)


@pytest.mark.parametrize("tag", ["openai", "laion2b_e16", "laion2b-s34b-b79k"])
def test_the_tags_of_a_model_pass_in_every_spelling_of_open_clip(tag: str) -> None:
    ClipConfig(model="ViT-B-32", pretrained=tag).check()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    weights = {n: w.contiguous() for n, w in tiny_model().state_dict().items()}
    save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)
    os.truncate(path, path.stat().st_size // 2)
    assert "cannot be read as weights" in of_file(path)
    path.write_bytes(b"")
    assert "cannot be read as weights" in of_file(path)
    path.write_text("<html>not found</html>")
    assert "cannot be read as weights" in of_file(path)


def test_a_file_that_pickles_objects_is_refused_without_running_them(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"state_dict": Trap()}, tmp_path / "weights.pt")
    assert "cannot be read as weights" in of_file(tmp_path / "weights.pt")
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_width_are_refused_with_both_widths(tmp_path: Path) -> None:
    torch.save(tiny_model(width=64).state_dict(), tmp_path / "weights.pt")
    text = of_file(tmp_path / "weights.pt")
    assert "its embeddings have width 32, the model's have width 16" in text
    assert "positional_embedding has shape (8, 64), but the model's is (8, 32)" in text
    config = ClipConfig(model="checked", pretrained=str(tmp_path / "weights.pt"))
    with pytest.raises(ConfigError, match="does not fit model='checked'"):
        FrozenClip.from_config(config, device=CPU)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    assert "positional_embedding (8, 32) is missing" in of_file(tmp_path / "weights.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds no weights" in of_file(tmp_path / "list.pt")


def test_a_folder_whose_weights_are_damaged_or_of_another_model_is_refused(tmp_path: Path) -> None:
    tiny_clip().save(tmp_path)
    config = ClipConfig(model=f"local-dir:{tmp_path}", pretrained=None)
    config.check()
    assert config.width == 16
    settings = json.loads((tmp_path / "open_clip_config.json").read_text())
    changed = json.loads(json.dumps(settings))
    changed["model_cfg"]["embed_dim"] = 24
    (tmp_path / "open_clip_config.json").write_text(json.dumps(changed))
    assert "its embeddings have width 16, the model's have width 24" in message(config)
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert "does not describe a CLIP" in message(config)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    os.truncate(tmp_path / WEIGHTS_FILE, 1000)
    assert "cannot be read as weights" in message(config)
    (tmp_path / WEIGHTS_FILE).unlink()
    assert "does not exist" in message(config)


def embeddings(clip: FrozenClip) -> Tensor:
    return torch.cat([clip.encode_images(pictures()), clip.encode_texts(CAPTIONS)])


def test_a_torchscript_archive_loads_under_the_name_with_its_activation_and_no_other(
    tmp_path: Path,
) -> None:
    for quick_gelu, name, other in (
        (True, "checked-quickgelu", "checked"),
        (False, "checked", "checked-quickgelu"),
    ):
        model = tiny_model(quick_gelu=quick_gelu)
        path = tmp_path / f"{name}.pt"
        save_scripted(model, path)
        clip = FrozenClip.from_config(checked(path, name), device=CPU)
        with torch.no_grad():
            expected = model.encode_text(clip.tokenize(CAPTIONS), normalize=True)
        torch.testing.assert_close(clip.encode_texts(CAPTIONS), expected)
        text = of_file(path, other)
        assert f"use model='{name}'" in text
        assert "the code in this TorchScript archive computes it" in text


def test_the_activation_is_read_from_a_config_beside_the_weights(tmp_path: Path) -> None:
    torch.save(tiny_model(quick_gelu=True).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(
        json.dumps({"text_config": {"hidden_act": "quick_gelu"}, "vision_config": {}})
    )
    assert "was trained with QuickGELU" in of_file(tmp_path / "weights.pt")
    checked(tmp_path / "weights.pt", "checked-quickgelu")
    settings = {"model_cfg": TINY.open_clip_config()}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    assert "was trained with GELU" in of_file(tmp_path / "weights.pt", "checked-quickgelu")


def test_the_activation_is_known_of_files_that_open_clip_downloads(tmp_path: Path) -> None:
    path = tmp_path / "vit_b_32-quickgelu-laion400m_e32-46683a32.pt"
    torch.save(tiny_model().state_dict(), path)
    assert "open_clip says of its tag laion400m_e32" in of_file(path)


def test_a_name_with_both_activations_warns_where_nothing_shows_the_right_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(tiny_model().state_dict(), tmp_path / "weights.pt")
    with caplog.at_level(logging.WARNING, logger="unclip.clip.check"):
        checked(tmp_path / "weights.pt")
    assert "does not show whether it was trained with QuickGELU" in caplog.text
    assert "use model='checked-quickgelu'" in caplog.text
