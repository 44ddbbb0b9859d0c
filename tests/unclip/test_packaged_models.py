"""The weights that the package carries: complete, small enough, and able to draw."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unclip import UnclipPipeline
from unclip.pretrained import find_folder, packaged
from unclip.pretrained.manifest import check_digests

MAX_BYTES = 32_000_000
SECTIONS = ("Data", "Licences", "Training", "Figures", "Limits")
COLOURS = {"a red heart": 0, "a green heart": 1, "a blue heart": 2}  # channel of each


@pytest.fixture(scope="module")
def folder() -> Path:
    return find_folder("emoji")


@pytest.fixture(scope="module")
def pipeline() -> UnclipPipeline:
    return UnclipPipeline.from_pretrained("emoji")


def test_the_generator_of_emoji_is_packaged(folder: Path) -> None:
    assert "emoji" in packaged()
    assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) <= MAX_BYTES


def test_the_digests_are_those_of_the_manifest(folder: Path) -> None:
    check_digests(folder)


def test_the_model_card_has_its_sections_and_pictures(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert set(SECTIONS) <= set(re.findall(r"^## (\w+)$", card, re.MULTILINE))
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card)
    assert pictures
    assert all((folder / picture).is_file() for picture in pictures)


def test_colours_of_captions_are_drawn(pipeline: UnclipPipeline) -> None:
    for caption, channel in COLOURS.items():
        images = pipeline(caption, num_images=4, seed=0).images
        assert [image.size for image in images] == [(64, 64)] * 4
        assert np.argmax(foreground(images)) == channel, caption


def test_a_variation_resembles_its_image_more_than_another(pipeline: UnclipPipeline) -> None:
    red, blue = (pipeline(f"a {colour} heart", seed=0).images for colour in ("red", "blue"))
    variations = pipeline.vary(red[0], num_images=4, seed=0).images
    own, other = (np.abs(foreground(variations) - foreground(images)) for images in (red, blue))
    assert own.sum() < other.sum()


def foreground(images: list[Image.Image]) -> np.ndarray:
    """The mean colour of what is not white, (3,)."""
    pixels = np.stack([np.asarray(image, np.float64) for image in images])
    mean: np.ndarray = pixels[pixels.min(-1) < 200].mean(0)
    return mean
