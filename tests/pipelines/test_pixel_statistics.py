"""Statistics of pixels: what raises them and what does not."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import laplace

from pipelines.demo.server import images
from pipelines.evaluation.images import decode_png
from pipelines.evaluation.pixel_statistics import colourfulness, roughness


@pytest.fixture(scope="module")
def emoji() -> Image.Image:
    return decode_png(images()["1f34e"]).resize((64, 64))


def test_noise_raises_roughness_and_blur_lowers_it(emoji: Image.Image) -> None:
    noise = np.random.default_rng(0).normal(0, 12, (64, 64, 1))
    speckled = Image.fromarray((np.asarray(emoji) + noise).clip(0, 255).astype(np.uint8))
    blurred = emoji.filter(ImageFilter.GaussianBlur(1))
    assert roughness(blurred) < 0.7 * roughness(emoji)
    assert roughness(speckled) > 1.5 * roughness(emoji)


def test_roughness_is_the_laplacian_inside_the_image(emoji: Image.Image) -> None:
    luminance = np.asarray(emoji.convert("L"), np.float64) / 255
    expected = np.sqrt(np.square(laplace(luminance)[1:-1, 1:-1]).mean())
    assert roughness(emoji) == pytest.approx(expected, rel=1e-5)


def test_colourfulness_is_0_for_grey_and_1_for_pure_colours(emoji: Image.Image) -> None:
    assert colourfulness(emoji.convert("L").convert("RGB")) == 0
    assert colourfulness(Image.new("RGB", (8, 8), (0, 255, 0))) == 1
    assert 0 < colourfulness(emoji) < 1
    paler = Image.blend(emoji, emoji.convert("L").convert("RGB"), 0.5)
    assert colourfulness(paler) < 0.8 * colourfulness(emoji)


def test_colourfulness_does_not_depend_on_the_size_of_the_object() -> None:
    images = [Image.new("RGB", (64, 64), "white") for _ in range(2)]
    for image, side in zip(images, (10, 50), strict=True):
        image.paste((200, 30, 30), (0, 0, side, side))
    small, large = map(colourfulness, images)
    assert small == pytest.approx(large)
