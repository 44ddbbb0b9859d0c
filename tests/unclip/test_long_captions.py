"""Captions of which the models read only the beginning."""

import logging

import pytest
from PIL import Image

from tests.unclip.toys import toy_pipeline
from unclip import UnclipPipeline
from unclip.clip.tokenizer import cut, simple_tokenizer

READ = 4  # tokens of a caption that the toys read, without its ends
LONG = "a red heart above a Quiet sea"
LEFT_OUT = "a quiet sea"


@pytest.fixture(scope="module")
def pipeline() -> UnclipPipeline:
    return toy_pipeline()


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_noise((20, 20), 90).convert("RGB")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_what_is_left_out_changes_no_token() -> None:
    found = cut(LONG, READ + 2)
    assert found == (7, READ, LEFT_OUT)
    tokenizer = simple_tokenizer(READ + 2)
    assert tokenizer([LONG]).equal(tokenizer(["a red heart above"]))


@pytest.mark.parametrize("caption", ["", "a red heart above", "  a \n red  heart  above "])
def test_a_caption_that_fits_is_not_cut(caption: str) -> None:
    assert cut(caption, READ + 2) is None


def test_letters_of_several_tokens_are_left_out_whole() -> None:
    found = cut("猫" * 9, READ + 2)
    assert found is not None
    assert set(found.left_out) == {"猫"}


def test_a_caption_that_is_too_long_gives_one_warning(
    pipeline: UnclipPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline([LONG, "a cat", LONG], num_images=3, batch_size=2, num_inference_steps=1)
    (message,) = warnings(caplog)
    assert message == (
        f"The caption {LONG!r} has 7 tokens, of which the models read the first 4. "
        f"Left out: {LEFT_OUT!r}"
    )


def test_a_very_long_caption_is_named_by_its_beginning(
    pipeline: UnclipPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.warn_if_cut(["red " * 300])
    (message,) = warnings(caplog)
    assert message.startswith("The caption 'red red")
    assert "red red…' has 300 tokens" in message


def test_the_shortest_text_encoder_counts(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = toy_pipeline()
    assert pipeline.clip is not None
    pipeline.clip.context_length = 5  # type: ignore[misc]
    pipeline.warn_if_cut(["a red heart", "a red heart above"])
    (message,) = warnings(caplog)
    assert "of which the CLIP reads the first 3. Left out: 'above'" in message


def test_edits_and_inpaintings_warn_too(
    pipeline: UnclipPipeline, image: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.edit(image, LONG, from_text=f"not {LONG}", num_inference_steps=1)
    assert [message.split(" has ")[0] for message in warnings(caplog)] == [
        f"The caption {LONG!r}",
        f"The caption 'not {LONG}'",
    ]
    caplog.clear()
    pipeline.inpaint(image, Image.new("L", image.size, 255), LONG, num_inference_steps=1)
    assert len(warnings(caplog)) == 1


def test_captions_that_fit_give_no_warning(
    pipeline: UnclipPipeline, image: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline("a red heart", num_inference_steps=1)
    pipeline.edit(image, "a cat", num_inference_steps=1)
    pipeline.inpaint(image, Image.new("L", image.size, 255), num_inference_steps=1)
    assert warnings(caplog) == []
