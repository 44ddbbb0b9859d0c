import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from pipelines.data.image_statistics import colour_spread, phash
from pipelines.data.rules import Blank, NearCopy
from pipelines.demo.dataset import emoji
from tests.pipelines.rule_rows import encoded, row
from unclip.config import ConfigError


def scene(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """Coarse shapes in random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def hash_of(image: Image.Image) -> int:
    return phash(np.asarray(image)[:, :, ::-1].copy())


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    content = encoded(image, "JPEG", quality=quality)
    return Image.open(io.BytesIO(content)).convert("RGB")


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "high quality": lambda image: as_jpeg(image, 90),
    "low quality": lambda image: as_jpeg(image, 40),
    "half": lambda image: image.resize((200, 150)),
    "odd size": lambda image: image.resize((317, 233), Image.Resampling.LANCZOS),
    "thumbnail": lambda image: image.resize((64, 64), Image.Resampling.BOX),
    "enlarged": lambda image: image.resize((1024, 768), Image.Resampling.BICUBIC),
    "both": lambda image: as_jpeg(image.resize((999, 701), Image.Resampling.BICUBIC), 60),
    "brighter": lambda image: image.point(lambda level: min(255, round(0.95 * level + 10))),
}


@pytest.mark.parametrize("copy", list(COPIES))
def test_a_copy_has_nearly_the_hash_of_its_original(copy: str) -> None:
    images = [scene(seed) for seed in range(40)]
    distances = [(hash_of(image) ^ hash_of(COPIES[copy](image))).bit_count() for image in images]
    assert np.mean([distance <= 3 for distance in distances]) >= 0.9
    assert max(distances) <= 8


def test_different_images_have_different_hashes() -> None:
    hashes = [hash_of(scene(seed)) for seed in range(60)]
    pairs = [(a ^ b).bit_count() for n, a in enumerate(hashes) for b in hashes[:n]]
    assert min(pairs) > 3
    mirrored = [hash_of(ImageOps.mirror(scene(seed))) for seed in range(20)]
    assert all((a ^ b).bit_count() > 3 for a, b in zip(hashes, mirrored, strict=False))


def test_a_hash_is_an_unsigned_64_bit_number_that_does_not_change() -> None:
    hashes = [hash_of(scene(seed)) for seed in range(60)]
    assert all(0 <= value < 2**64 for value in hashes)
    assert max(hashes) >= 2**63
    assert hashes == [hash_of(scene(seed)) for seed in range(60)]
    # Hashes are stored and compared with later ones, so another value makes old stores wrong.
    assert hash_of(scene(0)) == 0xFC9848E313C4AE3B


def placeholder(colour: str = "white") -> Image.Image:
    return Image.new("RGB", (128, 96), colour)


def framed() -> Image.Image:
    return ImageOps.expand(placeholder("#dddddd"), border=6, fill="black")


def noisy() -> Image.Image:
    noise = np.random.default_rng(0).normal(128, 8, (256, 256, 3))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def red_and_green() -> Image.Image:
    """Two colours of the same grey level."""
    image = Image.new("RGB", (64, 64), (128, 0, 0))
    image.paste((0, 65, 0), (0, 0, 32, 64))
    assert np.asarray(image.convert("L")).std() < 1
    return image


def small_drawing() -> Image.Image:
    image = placeholder()
    ImageDraw.Draw(image).ellipse((56, 40, 72, 56), fill="red")
    return image


@pytest.mark.parametrize(
    ("image", "is_blank"),
    [
        (placeholder(), True),
        (placeholder("navy"), True),
        (framed(), True),
        (noisy(), True),
        (red_and_green(), False),
        (small_drawing(), False),
        (scene(0), False),
    ],
)
def test_images_of_nearly_one_colour_are_blank(image, is_blank) -> None:
    for content in (encoded(image), encoded(image, "JPEG", quality=75)):
        assert Blank(min_std=4.0).reason(row(image=content)) == ("blank" if is_blank else None)
    assert Blank.needs_image


def test_no_image_of_the_demo_is_blank() -> None:
    images = emoji()["image"].to_pylist()[::50]
    assert images
    assert {Blank(min_std=4.0).reason(row(image=image)) for image in images} == {None}


def test_the_spread_is_that_of_the_most_varied_channel() -> None:
    half = Image.new("RGB", (64, 64), (10, 0, 0))
    half.paste((10, 0, 255), (0, 0, 32, 64))
    assert colour_spread(half) == pytest.approx(127.5, abs=0.01)
    assert colour_spread(placeholder()) == 0


def test_near_copies_are_rejected_as_such_and_duplicates_are_left_to_their_rule() -> None:
    rule = NearCopy(max_distance=3)
    reasons = {value: rule.reason(row(repeats=value)) for value in (None, "duplicate", "near_copy")}
    assert reasons == {None: None, "duplicate": None, "near_copy": "near_copy"}


def test_settings_out_of_range_are_refused_with_the_range() -> None:
    for distance in (-1, 4):
        with pytest.raises(ConfigError, match="is not in 0 to 3"):
            NearCopy(max_distance=distance)
    for std in (0.0, 128.0, float("nan")):
        with pytest.raises(ConfigError, match=r"is not in \(0, 127.5\]"):
            Blank(min_std=std)
