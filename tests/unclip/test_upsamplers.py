"""A cascade has any number of upsamplers, each with its own sampling settings."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unclip.toys import (
    make_batch,
    perturb,
    sampling_with,
    seeded,
    toy_cascade,
    upsampler_config,
)
from unclip.config import ConfigError
from unclip.generation import Cascade, UpsamplerSampling
from unclip.kinds import build
from unclip.manipulate import enlarge, inpaint
from unclip.pipeline import UnclipPipeline

NAMES = ("first", "second", "third")


def cascade_with(count: int) -> Cascade:
    names = NAMES[:count]
    models = {n: perturb(build(upsampler_config(8 * 2**i))) for i, n in enumerate(names)}
    settings = {
        name: UpsamplerSampling(sampler="ddim", num_inference_steps=1 + i)
        for i, name in enumerate(names)
    }
    return toy_cascade(sampling_with(upsamplers=settings), upsamplers=models)


@pytest.mark.parametrize("count", range(4))
def test_images_rise_through_each_of_the_upsamplers(count: int) -> None:
    cascade, batch = cascade_with(count), make_batch(8)
    made = cascade.generate(batch["tokens"], batch["text_embeds"], generator=seeded())
    sizes = (8, 16, 32, 64)[: 1 + count]
    assert tuple(pixels.shape[-1] for pixels in made.pixels) == sizes == cascade.sizes
    assert [*cascade.models] == ["prior", "decoder", *NAMES[:count]]


@pytest.mark.parametrize("count", [0, 3])
def test_inpainting_passes_each_of_the_upsamplers(count: int) -> None:
    cascade = cascade_with(count)
    batch = make_batch(cascade.sizes[-1])
    mask = torch.zeros(4, 1, *batch["pixels"].shape[2:], dtype=torch.bool)
    mask[:, :, :4] = True
    painted = inpaint(cascade, batch["pixels"], mask, batch["image_embeds"], generator=seeded())
    assert torch.equal(painted[:, :, 4:], batch["pixels"][:, :, 4:])
    assert not torch.allclose(painted[:, :, :4], batch["pixels"][:, :, :4])


def test_without_an_upsampler_an_image_is_as_large_as_it_gets() -> None:
    pixels = make_batch(8)["pixels"]
    assert torch.equal(enlarge(cascade_with(0), pixels), pixels)
    assert enlarge(cascade_with(3), pixels).shape == (4, 3, 64, 64)


def test_each_upsampler_takes_its_own_number_of_steps() -> None:
    cascade = cascade_with(3)
    steps = dict.fromkeys(NAMES, 0)

    def counting(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            steps[name] += 1

        return count

    for name, model in cascade.upsamplers.items():
        model.register_forward_hook(counting(name))
    cascade.upsample(make_batch(8)["pixels"], generator=seeded())
    assert steps == {"first": 1, "second": 2, "third": 3}


@pytest.mark.parametrize("count", range(4))
def test_a_saved_cascade_comes_back_with_names_and_order(count: int, tmp_path: Path) -> None:
    cascade, batch = cascade_with(count), make_batch(8)
    UnclipPipeline(cascade, None).save(tmp_path)
    loaded = UnclipPipeline.from_pretrained(tmp_path).cascade
    assert [*loaded.upsamplers] == [*NAMES[:count]]
    assert loaded.sampling == cascade.sampling
    ours, theirs = (
        c.generate(batch["tokens"], batch["text_embeds"], generator=seeded()).pixels[-1]
        for c in (cascade, loaded)
    )
    assert torch.equal(ours, theirs)


def test_settings_must_name_the_upsamplers() -> None:
    cascade = cascade_with(2)
    with pytest.raises(ConfigError, match="settings for first, second, but the upsamplers are non"):
        replace(cascade, upsamplers={})
    with pytest.raises(ConfigError, match="settings for none, but the upsamplers are first, sec"):
        replace(cascade, sampling=sampling_with(upsamplers={}))


def test_a_folder_without_one_of_its_upsamplers_is_refused(tmp_path: Path) -> None:
    UnclipPipeline(cascade_with(2), None).save(tmp_path)
    (tmp_path / "second.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"second\.safetensors missing"):
        UnclipPipeline.from_pretrained(tmp_path)


@pytest.fixture
def sampling_file(tmp_path: Path) -> Path:
    UnclipPipeline(cascade_with(1), None).save(tmp_path)
    return tmp_path / "sampling.json"


def test_the_flat_form_of_sampling_is_explained(sampling_file: Path) -> None:
    flat = {"prior_sampler": "ddim", "prior_steps": 4, "upsampler_1_steps": 2, "eta": 0.0}
    sampling_file.write_text(json.dumps(flat))
    with pytest.raises(ConfigError, match=r"flat form .*prior_sampler, .*write sections instead"):
        UnclipPipeline.from_pretrained(sampling_file.parent)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("decoder", {"num_inference_steps": "4"}, "decoder.num_inference_steps is '4', which"),
        ("decoder", {"steps": 4}, "unknown: steps"),
        ("decoder", {"sampler": "dim"}, "did you mean ddim"),
        ("upsamplers", {"first": 4}, "upsamplers.first is 4, which is not a UpsamplerSampling"),
        ("upsamplers", [], "upsamplers is .*, which is not a mapping"),
    ],
)
def test_edited_settings_that_cannot_work_are_refused(
    sampling_file: Path, section: str, changes: object, message: str
) -> None:
    content = json.loads(sampling_file.read_text())
    content[section] = content[section] | changes if isinstance(changes, dict) else changes
    sampling_file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        UnclipPipeline.from_pretrained(sampling_file.parent)
