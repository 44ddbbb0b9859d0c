"""The work before and around the towers gives what open_clip gives."""

import pickle

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from tests.unclip.test_clip import TINY, tiny_clip
from unclip.clip import tokenizer
from unclip.clip.frozen import CPU_PIXEL_BYTES, FrozenClip
from unclip.clip.training import build_clip

CPU = torch.device("cpu")
COLOURS = ("red", "green", "blue")
CAPTIONS = [f"{COLOURS[n % 3]} heart {'and more ' * (n // 30)}" for n in reversed(range(100))]


def noise(*sizes: tuple[int, int]) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_reach_the_model_as_from_open_clip(resize_mode: str, interpolation: str) -> None:
    config = PreprocessCfg(16, resize_mode=resize_mode, interpolation=interpolation)
    preprocess = image_transform_v2(config, is_train=False)
    clip = FrozenClip(
        build_clip(TINY),
        model_config=TINY.open_clip_config(),
        preprocess=preprocess,
        tokenizer=open_clip.SimpleTokenizer(context_length=8),
        name="tiny",
        device=CPU,
    )
    images = noise((40, 30), (16, 16), (9, 50))
    expected = torch.stack([preprocess(image) for image in images])
    assert torch.equal(clip.preprocess(images), expected)
    pixels = clip.inputs.pixels(images)
    assert (pixels.shape, pixels.dtype) == ((3, 3, 16, 16), torch.uint8)
    assert torch.equal(clip.preprocess(pixels), expected)


def test_inputs_are_the_same_in_another_process() -> None:
    own = tiny_clip().inputs
    copy = pickle.loads(pickle.dumps(own))
    images = noise((40, 30))
    assert torch.equal(copy.pixels(images), own.pixels(images))
    assert torch.equal(copy.tokenize(CAPTIONS), own.tokenize(CAPTIONS))


def test_captions_have_the_embeddings_of_open_clip_without_its_padding() -> None:
    clip = tiny_clip()
    tokens = clip.tokenize([*CAPTIONS, "", "far too long a caption " * 9])
    with torch.inference_mode():
        expected = clip.model.encode_text(tokens, normalize=True)
    lengths: list[int] = []
    hook = clip.model.ln_final.register_forward_hook(
        lambda module, given, made: lengths.append(made.shape[1])
    )
    torch.testing.assert_close(clip.encode_texts(tokens), expected, atol=1e-6, rtol=0)
    hook.remove()
    assert min(lengths) < max(lengths) == clip.context_length


def test_a_tower_that_sees_what_follows_gets_all_tokens() -> None:
    clip = tiny_clip()
    clip.model.attn_mask = None
    tokens = clip.tokenize(CAPTIONS)
    with torch.inference_mode():
        expected = clip.model.encode_text(tokens, normalize=True)
    assert torch.equal(clip.encode_texts(tokens), expected)


def test_more_images_than_a_cpu_takes_at_once_keep_their_order() -> None:
    clip = tiny_clip()
    at_once = CPU_PIXEL_BYTES // (4 * 3 * clip.image_size**2)
    pixels = torch.randint(0, 256, (at_once + 3, 3, 16, 16), dtype=torch.uint8)
    embeds, norms = clip.encode_images_and_norms(pixels)
    ends, end_norms = clip.encode_images_and_norms(pixels[-5:])
    torch.testing.assert_close(embeds[-5:], ends, atol=1e-6, rtol=0)
    torch.testing.assert_close(norms[-5:], end_norms)


def test_the_tokenizer_remembers_only_so_many_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = open_clip.SimpleTokenizer(context_length=8)
    captions = [f"word{chr(97 + n)}x thing" for n in range(20)]
    monkeypatch.setattr(tokenizer, "CACHED_WORDS", 5)
    clip = tiny_clip()
    assert torch.equal(clip.tokenize(captions), fresh(captions))
    assert len(clip.inputs.tokenizer.cache) == 5  # type: ignore[attr-defined]


def test_a_caption_that_comes_again_has_open_clips_tokens_without_being_encoded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captions = ["a red heart", "Ein Herz & ein Apfel", "a red heart", ""]
    expected = open_clip.SimpleTokenizer(context_length=9)(captions)
    tokenize = tokenizer.simple_tokenizer(9)
    first = tokenize(captions)
    assert torch.equal(first, expected)
    first.zero_()  # the caller's own
    monkeypatch.setattr(open_clip.SimpleTokenizer, "encode", None)
    assert torch.equal(tokenize(captions[::-1]), expected.flip(0))
