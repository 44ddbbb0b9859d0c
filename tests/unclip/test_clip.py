import json
import math
import random
import shutil
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.unclip.training_toys import CONFIG
from unclip.clip.frozen import ClipConfig, FrozenClip
from unclip.clip.training import ClipArchitecture, build_clip, clip_loss, random_crop
from unclip.config import ConfigError
from unclip.training import Batch, Keep, LocalCheckpoints, train

CPU = torch.device("cpu")
TINY = ClipArchitecture(
    embed_dim=16,
    image_size=16,
    patch_size=8,
    vision_width=32,
    vision_layers=1,
    vision_heads=2,
    text_context_length=8,
    text_width=32,
    text_layers=1,
    text_heads=2,
    init_temperature=0.07,
)
CAPTIONS = ["red heart", "a blue circle", "green apple"]


def tiny_clip(seed: int = 0) -> FrozenClip:
    torch.manual_seed(seed)
    return FrozenClip.from_trained(build_clip(TINY), TINY, name="tiny", device=CPU)


def pictures(side: int = 40) -> list[Image.Image]:
    """Smooth gradients, so that resampling in uint8 and in float agree closely."""
    ramp = np.linspace(40, 215, side)
    planes = [(ramp[:, None] + 0 * ramp, ramp + 0 * ramp[:, None], 0 * ramp + ramp[::-1, None])]
    planes.append((planes[0][1], planes[0][2], planes[0][0]))
    return [Image.fromarray(np.stack(p, -1).round().astype(np.uint8)) for p in planes]


def as_tensor(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images])


def test_embeddings_have_norm_one_and_the_stated_width() -> None:
    clip = tiny_clip()
    for embeds, count in ((clip.encode_images(pictures()), 2), (clip.encode_texts(CAPTIONS), 3)):
        assert embeds.shape == (count, clip.width)
        assert embeds.dtype == torch.float32
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(count))


def test_pictures_and_tensors_of_them_give_the_same_embeddings() -> None:
    clip = tiny_clip()
    images = pictures()
    expected = clip.encode_images(images)
    pixels = as_tensor(images)
    torch.testing.assert_close(clip.encode_images(pixels), expected, atol=5e-3, rtol=0)
    floating = pixels.float() / 127.5 - 1
    torch.testing.assert_close(clip.encode_images(floating), expected, atol=5e-3, rtol=0)


def test_pixels_of_the_models_own_size_reach_a_trained_model_as_they_are() -> None:
    pixels = torch.rand(2, 3, TINY.image_size, TINY.image_size) * 2 - 1
    torch.testing.assert_close(tiny_clip().preprocess(pixels), pixels)


def test_grey_and_transparent_pictures_are_encoded_as_rgb() -> None:
    clip = tiny_clip()
    grey = pictures()[0].convert("L")
    torch.testing.assert_close(
        clip.encode_images([grey]), clip.encode_images([grey.convert("RGB")])
    )
    clear, white = Image.new("RGBA", (16, 16), (255, 0, 0, 0)), Image.new("RGB", (16, 16), "white")
    torch.testing.assert_close(clip.encode_images([clear]), clip.encode_images([white]))


def test_tokens_have_the_models_context_length_and_encode_as_their_captions() -> None:
    clip = tiny_clip()
    tokens = clip.tokenize([*CAPTIONS, "far too long a caption " * 9])
    assert tokens.shape == (4, clip.context_length)
    assert tokens.dtype == torch.int64
    assert torch.equal(clip.encode_texts(tokens[:3]), clip.encode_texts(CAPTIONS))


def test_a_megabyte_without_a_space_has_the_tokens_of_its_beginning() -> None:
    clip = tiny_clip()
    word = "".join(random.Random(0).choices(string.ascii_lowercase, k=1_000_000))
    assert torch.equal(clip.tokenize([word]), clip.tokenize([word[:2000]]))


def test_tensor_that_is_not_a_batch_of_rgb_images_is_refused_with_its_shape() -> None:
    with pytest.raises(ValueError, match=r"\(3, 16, 16\) are not \(B, 3, H, W\)"):
        tiny_clip().encode_images(torch.zeros(3, 16, 16))


def test_saved_clip_loads_with_equal_embeddings_digest_and_name_wherever_it_lies(
    tmp_path: Path,
) -> None:
    clip = tiny_clip()
    clip.save(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for folder in ("here", "there"):
        loaded = FrozenClip.load(tmp_path / folder, device=CPU)
        assert torch.equal(loaded.encode_images(pictures()), clip.encode_images(pictures()))
        assert torch.equal(loaded.encode_texts(CAPTIONS), clip.encode_texts(CAPTIONS))
        assert (loaded.digest, loaded.name) == (clip.digest, "tiny")
        assert (loaded.width, loaded.image_size, loaded.context_length) == (16, 16, 8)


def test_digest_changes_with_one_weight_and_with_the_preprocessing(tmp_path: Path) -> None:
    first, second = tiny_clip(), tiny_clip()
    assert first.digest == second.digest
    changed = tiny_clip()
    with torch.no_grad():
        changed.model.logit_scale.add_(1e-3)
    assert changed.digest != first.digest
    first.save(tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert FrozenClip.load(tmp_path, device=CPU).digest != first.digest


def test_named_model_loads_from_a_local_checkpoint_as_open_clip_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny-test.json").write_text(json.dumps(TINY.open_clip_config()))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(3)
    torch.save(build_clip(TINY).state_dict(), tmp_path / "weights.pt")
    config = ClipConfig(model="tiny-test", pretrained=str(tmp_path / "weights.pt"))
    clip = FrozenClip.from_config(config, device=CPU)
    model, _, preprocess = open_clip.create_model_and_transforms(
        "tiny-test", pretrained=str(tmp_path / "weights.pt")
    )
    pixels = torch.stack([preprocess(image) for image in pictures()])
    with torch.no_grad():
        expected = model.eval().encode_image(pixels, normalize=True)
    torch.testing.assert_close(clip.encode_images(pictures()), expected)
    assert clip.name == "tiny-test/weights"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "ViT-B-32", "pretrained": None}, "set pretrained to one of .*openai"),
        ({"model": "local-dir:x", "pretrained": "openai"}, "set pretrained to null"),
    ],
)
def test_source_that_cannot_work_is_refused_with_a_hint(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipConfig(**fields)


def test_folder_without_a_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give a folder that FrozenClip\.save wrote"):
        FrozenClip.load(tmp_path, device=CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 6}, "image_size=16 is not divisible by patch_size=6; try image_size=12"),
        ({"text_heads": 3}, "text_width=32 is not divisible by text_heads=3; try text_width=30"),
        ({"init_temperature": 2.0}, "init_temperature=2.0 must be in"),
    ],
)
def test_architecture_that_cannot_be_built_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **change)


def test_random_crop_of_the_whole_picture_is_the_picture() -> None:
    pixels = torch.rand(2, 3, 16, 16)
    whole = random_crop(pixels, torch.Generator().manual_seed(0), smallest=1.0)
    torch.testing.assert_close(whole, pixels)


def test_random_crop_follows_its_generator_and_keeps_colours_and_sides() -> None:
    plain = torch.tensor([0.9, -0.3, 0.1]).reshape(1, 3, 1, 1).expand(4, 3, 16, 16)
    torch.testing.assert_close(random_crop(plain, torch.Generator().manual_seed(1)), plain)
    ramp = torch.linspace(-1, 1, 16).expand(8, 3, 16, 16)
    crops = [random_crop(ramp, torch.Generator().manual_seed(s)) for s in (2, 2, 3)]
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])
    assert (crops[0].diff(dim=-1) > -1e-6).all()  # still brighter to the right


def clip_batch(count: int = 4) -> Batch:
    pixels = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokens = open_clip.SimpleTokenizer(context_length=8)([f"{i} things" for i in range(count)])
    return {"pixels": pixels, "tokens": tokens}


def test_loss_of_an_uninformed_model_is_the_logarithm_of_the_batch() -> None:
    model = build_clip(TINY)
    with torch.no_grad():
        model.logit_scale.fill_(-20.0)  # all logits near zero
    loss = clip_loss(model, clip_batch(), torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(math.log(4), abs=1e-3)


def test_pictures_with_equal_captions_are_not_held_against_each_other() -> None:
    torch.manual_seed(0)
    model = build_clip(TINY)
    batch = clip_batch()
    equal = {"pixels": batch["pixels"][:1].expand(4, -1, -1, -1).clone()}
    equal["tokens"] = batch["tokens"][:1].expand(4, -1).clone()
    with torch.no_grad():
        model.logit_scale.fill_(-20.0)
    loss = clip_loss(model, equal, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(4), abs=1e-3)  # already the least there is
    assert model.visual.proj.grad.abs().max() < 1e-6


def test_loss_and_gradients_in_bfloat16_are_close_to_those_in_float32() -> None:
    torch.manual_seed(0)
    model = build_clip(TINY)
    found = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = clip_loss(model, clip_batch(), torch.Generator().manual_seed(0))
        loss.backward()
        found.append((loss.detach(), model.visual.conv1.weight.grad.clone()))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=2e-2, atol=0)
    assert torch.cosine_similarity(found[0][1].flatten(), found[1][1].flatten(), dim=0) > 0.99


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_contrastive_training_learns_to_match_colours_with_their_names(
    tmp_path: Path, precision: Any
) -> None:
    names = ["red", "green", "blue", "white"]
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])
    pixels = colours.reshape(4, 3, 1, 1).expand(4, 3, 16, 16).contiguous()
    tokens = open_clip.SimpleTokenizer(context_length=8)(names)
    config = replace(
        CONFIG,
        steps=40,
        batch_size=4,
        logical_ranks=1,
        learning_rate=3e-3,
        lr_schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
        adam_beta2=0.98,
        adam_eps=1e-6,
        ema_decay=0.8,
        precision=precision,
        checkpoint_every_steps=40,
        seed=0,
    )
    torch.manual_seed(0)
    model = build_clip(TINY)
    result = train(
        model,
        clip_loss,
        lambda start, logical_ranks: iter(lambda: [{"pixels": pixels, "tokens": tokens}], None),
        config,
        checkpoints=LocalCheckpoints(tmp_path, keep=Keep(1)),
        device=CPU,
    )
    model.load_state_dict(result.ema_weights)
    clip = FrozenClip.from_trained(model, TINY, name="colours", device=CPU)
    similarity = clip.encode_images(pixels) @ clip.encode_texts(names).T
    assert similarity.argmax(-1).tolist() == [0, 1, 2, 3]
