"""`UnclipPipeline` as its users see it: weights in a folder, Pillow images in and out."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unclip.toys import toy_pipeline
from unclip import UnclipPipeline
from unclip.clip.stored import StoredClip
from unclip.config import UnclipError
from unclip.output import Images


@pytest.fixture(scope="module")
def pipeline() -> UnclipPipeline:
    return toy_pipeline()


@pytest.fixture(scope="module")
def folder(pipeline: UnclipPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    pipeline.save(folder)
    return folder


@pytest.fixture
def image() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    return Image.fromarray(noise)


def assert_same(ours: Images, theirs: Images, *, levels: int = 1) -> None:
    """Of 255; batches of another size round differently."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= levels


def test_what_is_saved_draws_the_same_images_when_it_is_loaded(
    pipeline: UnclipPipeline, folder: Path
) -> None:
    loaded = UnclipPipeline.from_pretrained(folder)
    assert_same(loaded("a red heart", seed=0), pipeline("a red heart", seed=0), levels=0)


def test_half_precision_halves_the_files_and_hardly_changes_an_image(
    pipeline: UnclipPipeline, folder: Path, tmp_path: Path
) -> None:
    pipeline.save(tmp_path, half=True)
    for name in ("decoder.safetensors", "clip/open_clip_model.safetensors"):
        assert (tmp_path / name).stat().st_size < 0.6 * (folder / name).stat().st_size
    loaded = UnclipPipeline.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.cascade.decoder.parameters()} == {torch.float32}
    for name, weight in pipeline.cascade.decoder.state_dict().items():
        stored = loaded.cascade.decoder.state_dict()[name]
        torch.testing.assert_close(stored, weight, rtol=1e-3, atol=1e-6)


def test_weights_that_float16_cannot_hold_stay_as_they_are(tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    weight = next(pipeline.cascade.decoder.parameters())
    weight.data[0] = 1e6
    pipeline.save(tmp_path, half=True)
    loaded = next(UnclipPipeline.from_pretrained(tmp_path).cascade.decoder.parameters())
    assert torch.equal(loaded, weight)


def test_the_text_tower_alone_encodes_captions_as_open_clip_does(folder: Path) -> None:
    captions = ["a red heart", "cat", "a very long caption that goes on " * 9]
    stored = StoredClip(folder / "clip", device=torch.device("cpu"))
    torch.testing.assert_close(stored.encode_texts(captions), stored.whole.encode_texts(captions))
    alone = StoredClip(folder / "clip", device=torch.device("cpu")).encode_texts(captions)
    torch.testing.assert_close(alone, stored.encode_texts(captions), rtol=0, atol=1e-5)


def test_captions_are_drawn_without_open_clip(folder: Path) -> None:
    code = (
        "import sys, unclip\nassert 'torch' not in sys.modules\n"
        f"unclip.UnclipPipeline.from_pretrained({str(folder)!r})('a red heart')\n"
        "heavy = {'open_clip', 'torchvision', 'timm', 'transformers', 'pandas', 'torch._dynamo'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_seed_gives_the_same_image_whatever_the_number_of_images_captions_and_the_batch(
    pipeline: UnclipPipeline,
) -> None:
    four = pipeline("a red heart", num_images=4, seed=3)
    assert four.seed == 3
    assert_same(Images(four.images[:1], 3), pipeline("a red heart", seed=3))
    assert_same(four, pipeline("a red heart", num_images=4, seed=3, batch_size=3))
    both = pipeline(["a cat", "a red heart"], num_images=4, seed=3)
    assert_same(Images(both.images[4:], 3), four)
    assert four.images[0].tobytes() != four.images[1].tobytes()


def test_without_a_seed_images_differ_and_can_be_made_again(pipeline: UnclipPipeline) -> None:
    one, other = pipeline("a red heart"), pipeline("a red heart")
    assert one.seed != other.seed
    assert_same(pipeline("a red heart", seed=one.seed), one, levels=0)


def test_a_generator_replaces_the_seed(pipeline: UnclipPipeline) -> None:
    one, other = (
        pipeline("a cat", num_images=3, generator=torch.Generator().manual_seed(1), batch_size=2)
        for _ in range(2)
    )
    assert one.seed is None
    assert_same(one, other, levels=0)


def test_settings_are_overridden_by_name(pipeline: UnclipPipeline) -> None:
    changed = pipeline.with_settings(
        num_inference_steps=3,
        guidance_scale=1.0,
        sampler="ddpm_fixed_small",
        prior_num_inference_steps=2,
        upsampler_num_inference_steps=1,
        eta=0.5,
    ).cascade.sampling
    assert (changed.decoder.num_inference_steps, changed.decoder.guidance_scale) == (3, 1.0)
    assert changed.decoder.sampler == "ddpm_fixed_small"
    assert changed.prior.num_inference_steps == 2
    assert {each.num_inference_steps for each in changed.upsamplers.values()} == {1}
    assert changed.eta == 0.5
    one = pipeline("a cat", seed=0, num_inference_steps=2).images[0]
    assert one.tobytes() != pipeline("a cat", seed=0).images[0].tobytes()
    assert pipeline.cascade.sampling.decoder.num_inference_steps == 4


def test_images_are_varied_interpolated_edited_and_inpainted(
    pipeline: UnclipPipeline, image: Image.Image
) -> None:
    side = pipeline.cascade.sizes[-1]
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, 15, 20))
    made = [
        *pipeline.vary(image, num_images=2, seed=0),
        *pipeline.interpolate(image, image.rotate(180), num_images=3, seed=0),
        *pipeline.edit(image, "a cat", from_text="a dog", num_images=2, seed=0),
        *pipeline.inpaint(image, mask, "a cat", num_images=2, seed=0),
        *pipeline.inpaint(image, mask, seed=0),
    ]
    assert len(made) == 10
    assert {(each.mode, each.size) for each in made} == {("RGB", (side, side))}


def test_manipulations_begin_with_the_reconstruction(
    pipeline: UnclipPipeline, image: Image.Image
) -> None:
    reconstruction = pipeline.vary(image, eta=0.0, seed=0)
    for walk in (
        pipeline.interpolate(image, image.rotate(180), seed=0),
        pipeline.edit(image, "a cat", num_images=3, seed=0),
    ):
        assert_same(Images(walk.images[:1], 0), reconstruction, levels=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, image: p(""), "a caption is empty"),
        (lambda p, image: p(["a cat", " "]), "a caption is empty"),
        (lambda p, image: p([]), "there is no caption"),
        (lambda p, image: p(3), "captions=3 is not text"),
        (lambda p, image: p([b"a cat"]), "which is not text"),
        (lambda p, image: p("a\0cat"), "is not text"),
        (lambda p, image: p("cat " * 1000), "has 4000 characters"),
        (lambda p, image: p("a cat", num_images=0), "num_images=0 must be"),
        (lambda p, image: p("a cat", seed=-1), "seed=-1 is not"),
        (lambda p, image: p("a cat", seed="1"), "seed='1' is not"),
        (lambda p, image: p("a cat", stpes=3), "no sampling setting 'stpes'"),
        (lambda p, image: p("a cat", guidance=3), "did you mean guidance_scale"),
        (lambda p, image: p("a cat", num_inference_steps="3"), "num_inference_steps is '3'"),
        (lambda p, image: p("a cat", num_inference_steps=0), "must be at least 1"),
        (lambda p, image: p("a cat", sampler="dim"), "did you mean ddim"),
        (lambda p, image: p.vary("a.png"), "'a.png' is not an image"),
        (lambda p, image: p.vary(image, num_images=0), "num_images=0 must be"),
        (lambda p, image: p.edit(image, ""), "a caption is empty"),
        (lambda p, image: p.inpaint(image, Image.new("L", (3, 3))), "mask has 3x3 pixels"),
    ],
)
def test_bad_input_is_refused_with_a_way_out(
    pipeline: UnclipPipeline, image: Image.Image, call: Any, message: str
) -> None:
    with pytest.raises(UnclipError, match=message.replace("[", r"\[")):
        call(pipeline, image)


def flip_a_byte(folder: Path) -> None:
    file = folder / "decoder.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def of_another_version(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 2}))


def reaching_out(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({"version": 1, "files": {"../../secret": "0"}}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip_a_byte, r"decoder\.safetensors has the SHA-256 .* was damaged or changed"),
        (of_another_version, "has version 2, and this version of unclip reads 1"),
        (reaching_out, "which is no file"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "is not a manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json missing"),
        (lambda folder: (folder / "prior.safetensors").unlink(), "is missing, and"),
        (lambda folder: (folder / "clip/open_clip_config.json").unlink(), "is missing, and"),
    ],
)
def test_damaged_weights_are_refused(
    pipeline: UnclipPipeline, tmp_path: Path, spoil: Any, message: str
) -> None:
    pipeline.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UnclipError, match=message):
        UnclipPipeline.from_pretrained(tmp_path)


def test_unknown_models_are_named_beside_those_that_there_are() -> None:
    with pytest.raises(UnclipError, match=r"there are no models 'emojj'.*this package brings"):
        UnclipPipeline.from_pretrained("emojj")


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_folder_at_a_url_is_downloaded_once(
    pipeline: UnclipPipeline, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wanted = pipeline("a cat", seed=0)
    assert_same(UnclipPipeline.from_pretrained(f"{server}/")("a cat", seed=0), wanted, levels=0)
    (cached,) = (tmp_path / "unclip").iterdir()
    before = {file: file.stat().st_mtime_ns for file in cached.rglob("*")}
    UnclipPipeline.from_pretrained(server)
    assert {file: file.stat().st_mtime_ns for file in cached.rglob("*")} == before
    with pytest.raises(UnclipError, match=r"nowhere/manifest\.json cannot be fetched"):
        UnclipPipeline.from_pretrained(f"{server}/nowhere")
