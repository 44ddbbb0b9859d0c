"""A drawing shows its own scene and no other, also after JPEG, blur and noise."""

import io
import random
from collections.abc import Callable
from string import ascii_uppercase

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pipelines.scenes.checker import Checked, check, compare
from pipelines.scenes.drawing import PALETTE, draw
from pipelines.scenes.reading import read
from pipelines.scenes.scene import WORDS, Item, Lettering, Scene, all_scenes, text_scene

SCENES = all_scenes()
ITEM, OTHER = Item("circle", "red"), Item("square", "blue")
RED, BLUE = PALETTE["red"], PALETTE["blue"]


def drawn(scene: Scene, side: int = 64, seed: int = 0) -> Image.Image:
    return draw(scene, generator=random.Random(f"{seed} {scene.caption}"), side=side)


def jpeg(image: Image.Image) -> Image.Image:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=75)
    return Image.open(encoded)


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(image.width / 64))


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((48, 48)).resize(image.size)


def right_scenes(image: Image.Image) -> list[Scene]:
    content = read(image)
    return [scene for scene in SCENES if compare(content, scene).is_right]


def canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (128, 128), "white")
    return image, ImageDraw.Draw(image)


@pytest.mark.parametrize(("first", "side"), list(enumerate((64, 128, 256))))
def test_the_drawing_of_each_scene_is_right(first: int, side: int) -> None:
    scenes = SCENES[first::6]  # all sizes of all scenes would take half a minute
    assert [s.caption for s in scenes if not check(drawn(s, side), s).is_right] == []


@pytest.mark.parametrize("change", [jpeg, blurred, noisy, smaller])
@pytest.mark.parametrize("side", [64, 256])
def test_a_drawing_stays_right_after(
    change: Callable[[Image.Image], Image.Image], side: int
) -> None:
    wrong = [s.caption for s in SCENES[::31] if not check(change(drawn(s, side)), s).is_right]
    assert wrong == []


@pytest.mark.parametrize("change", [jpeg, noisy])
def test_a_drawing_is_right_for_no_other_scene(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    for scene in SCENES[::34]:  # the other scenes include those that differ in one attribute
        assert right_scenes(change(drawn(scene, seed=1))) == [scene]


def test_swapped_colours_keep_every_credit_but_the_binding() -> None:
    swapped = Scene("binding", (Item("circle", "blue"), Item("square", "red")), "left of")
    checked = check(drawn(swapped), Scene("binding", (ITEM, OTHER), "left of"))
    assert checked == Checked(
        checked.content,
        has_colours=True,
        has_shapes=True,
        has_binding=False,
        has_count=True,
        has_relation=True,
    )
    assert not checked.is_right


def test_swapped_places_keep_every_credit_but_the_relation() -> None:
    checked = check(
        drawn(Scene("binding", (OTHER, ITEM), "above")), Scene("binding", (ITEM, OTHER), "above")
    )
    assert (checked.has_binding, checked.has_count, checked.has_relation) == (True, True, False)
    assert not checked.is_right


def test_another_number_keeps_the_colours_and_shapes() -> None:
    checked = check(drawn(Scene("counting", (ITEM,) * 4)), Scene("counting", (ITEM,) * 3))
    assert (checked.has_colours, checked.has_shapes, checked.has_count) == (True, True, False)
    assert not checked.is_right


def test_a_word_in_another_colour_keeps_the_text() -> None:
    checked = check(drawn(text_scene("GO", "red")), text_scene("GO", "blue"))
    assert (checked.has_text, checked.has_colours, checked.is_right) == (True, False, False)


def test_no_misspelt_word_is_read_as_the_word() -> None:
    for word in WORDS[::6]:
        for letter in set(ascii_uppercase) - {word[-1]}:
            misspelt = word[:-1] + letter
            image = drawn(Scene("text", lettering=Lettering(misspelt, "black")))
            assert read(image).word in (None, misspelt)


def test_a_word_of_two_colours_is_wrong() -> None:
    scene = text_scene("UP", "red")
    image, ink = drawn(scene), ImageChops.invert(drawn(scene)).convert("L").point(lambda p: p > 40)
    middle = image.width // 2
    half = ink.crop((0, 0, middle, image.height)).point(lambda p: 255 * p)
    image.paste(BLUE, (0, 0), half)
    checked = check(image, scene)
    assert (checked.has_text, checked.has_colours) == (True, False)


def test_an_object_too_many_is_wrong() -> None:
    image = drawn(Scene("counting", (ITEM,) * 5), 128)
    corners = [(x, y) for x in (0, 114) for y in (0, 114)]
    free = [c for c in corners if image.crop((*c, c[0] + 14, c[1] + 14)).getextrema()[1][0] == 255]
    ImageDraw.Draw(image).rectangle((*free[0], free[0][0] + 13, free[0][1] + 13), fill=BLUE)
    assert right_scenes(image) == []


@pytest.mark.parametrize("colour", ["white", "black", "red", "grey", "orange", "pink"])
def test_an_image_of_one_colour_shows_no_scene(colour: str) -> None:
    assert right_scenes(Image.new("RGB", (64, 64), colour)) == []


@pytest.mark.parametrize("deviation", [20, 60, 200])
def test_noise_shows_no_scene(deviation: float) -> None:
    noise = np.random.default_rng(1).normal(128, deviation, (64, 64, 3))
    assert right_scenes(Image.fromarray(noise.clip(0, 255).astype(np.uint8))) == []


@pytest.mark.parametrize("colour", ["orange", "pink", "grey", "brown", "cyan"])
def test_a_shape_in_a_colour_of_no_scene_is_wrong(colour: str) -> None:
    image, pen = canvas()
    pen.rectangle((30, 30, 90, 90), fill=colour)
    assert right_scenes(image) == []
    assert None in {each.colour for each in read(image).objects}


def test_blobs_are_no_shapes() -> None:
    for seed in range(12):
        noise = np.random.default_rng(seed).integers(0, 255, (128, 128), np.uint8)
        smooth = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(9)))
        image = np.where((smooth > np.median(smooth))[..., None], RED, 255).astype(np.uint8)
        assert right_scenes(Image.fromarray(image)) == []


def test_outlines_halves_and_rotated_shapes_are_no_shapes() -> None:
    image, pen = canvas()
    pen.ellipse((5, 5, 55, 55), outline=RED, width=6)
    pen.pieslice((70, 5, 120, 55), 0, 180, fill=RED)
    pen.polygon([(30, 70), (55, 95), (30, 120), (5, 95)], fill=RED)
    pen.line([(70, 70), (120, 120)], fill=RED, width=10)
    assert [each.shape for each in read(image).objects] == [None] * 4


def test_an_image_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match=r"64 x 32 pixels.*Crop it"):
        check(Image.new("RGB", (64, 32)), SCENES[0])
