"""`UnclipPipeline.to`, without a second device: the moves are recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.unclip.toys import toy_pipeline
from unclip import UnclipPipeline
from unclip.clip.frozen import FrozenClip
from unclip.clip.stored import StoredClip

GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toy_pipeline().save(folder)
    return folder


@pytest.fixture
def pipeline() -> UnclipPipeline:
    return toy_pipeline()


@pytest.fixture
def stored(folder: Path) -> UnclipPipeline:
    return UnclipPipeline.from_pretrained(folder)


@pytest.fixture
def moved(
    pipeline: UnclipPipeline,  # made before the patch, because it moves to the CPU
    stored: UnclipPipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> list[Any]:
    """The modules and tensors that were asked to move, which stay where they are."""
    found: list[Any] = []

    def to(self: Any, device: torch.device) -> Any:
        assert device == GPU
        found.append(self)
        return self

    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr(torch.Tensor, "to", to)
    return found


def drawn(pipeline: UnclipPipeline) -> list[np.ndarray]:
    image = Image.linear_gradient("L").convert("RGB")
    made = [*pipeline("a red heart", seed=0), *pipeline.vary(image, seed=0)]
    return [np.asarray(each) for each in made]


def test_a_pipeline_that_moves_is_the_same_and_draws_the_same_images(
    stored: UnclipPipeline,
) -> None:
    before = drawn(stored)
    assert stored.to("cpu") is stored
    for ours, theirs in zip(drawn(stored), before, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("device", ["cuda:0", GPU])
def test_every_model_and_the_clip_move(
    pipeline: UnclipPipeline, moved: list[Any], device: torch.device | str
) -> None:
    pipeline.to(device)
    assert isinstance(pipeline.clip, FrozenClip)
    models = [*pipeline.cascade.models.values(), pipeline.clip.model]
    assert [each for each in moved if isinstance(each, nn.Module)] == models
    assert len([each for each in moved if isinstance(each, torch.Tensor)]) == 2  # mean and std
    assert pipeline.clip.device == GPU


def test_a_clip_that_is_loaded_later_is_loaded_there(
    stored: UnclipPipeline, moved: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.to(GPU)
    assert moved == list(stored.cascade.models.values())
    assert isinstance(stored.clip, StoredClip)
    loaded: list[torch.device] = []
    monkeypatch.setattr(FrozenClip, "load", lambda folder, *, device: loaded.append(device))
    assert stored.clip.whole is None
    assert loaded == [GPU]


def test_copies_with_other_settings_share_the_models_that_move(
    pipeline: UnclipPipeline, moved: list[Any]
) -> None:
    copy = pipeline.with_settings(num_inference_steps=1)
    copy.to(GPU)
    assert pipeline.cascade.decoder in moved
    assert pipeline.clip is copy.clip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_pipeline_draws_on_a_gpu_and_comes_back(stored: UnclipPipeline) -> None:
    before = drawn(stored)
    on_gpu = drawn(stored.to("cuda"))
    for there, back, ours in zip(on_gpu, drawn(stored.to("cpu")), before, strict=True):
        assert np.array_equal(back, ours)
        assert np.abs(there.astype(int) - ours).mean() < 3
