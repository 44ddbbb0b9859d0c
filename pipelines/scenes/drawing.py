"""Draw a scene: flat shapes or letters on white, antialiased, and easy to read at 64 pixels.

Shapes fill a box, so a box (left, top, right, bottom) says where an object is. Coordinates of
boxes are fractions of the image's side, unless a name says pixels.
"""

import math
import random
from collections.abc import Mapping
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from pipelines.scenes.scene import Colour, Lettering, Relation, Scene, Shape

Box = tuple[float, float, float, float]  # left, top, right, bottom
Point = tuple[float, float]
RGB = tuple[int, int, int]

# Far from each other and from white, also in brightness where their hues are close.
PALETTE: Mapping[Colour, RGB] = {
    "red": (220, 30, 30),
    "green": (20, 150, 60),
    "blue": (20, 80, 225),
    "yellow": (230, 200, 0),
    "purple": (150, 30, 160),
    "black": (20, 20, 20),
}
WHITE: RGB = (255, 255, 255)

OVERSAMPLING = 4  # antialiasing: the image is drawn this much larger
MARGIN = 0.05  # around all that is drawn
STRETCH = 0.05  # largest change of a shape's width and of its height
FONT_PIXELS = 200  # letters are drawn at this size, then shrunk
STROKE_PIXELS = 10  # makes the packaged typeface heavy
GAP_PIXELS = 24  # between letters, so that they stay apart at 64 pixels


def draw(scene: Scene, *, generator: random.Random, side: int) -> Image.Image:
    """The scene as an RGB image of `side` x `side` pixels; 64 or more stay readable.

    Positions and sizes come from the generator. Objects never touch each other or the border.
    """
    canvas = Image.new("RGB", (side * OVERSAMPLING, side * OVERSAMPLING), WHITE)
    if scene.lettering is not None:
        _write(canvas, scene.lettering, generator)
    else:
        for item, box in zip(scene.items, _boxes(scene, generator), strict=True):
            corners = [(x * canvas.width, y * canvas.height) for x, y in outline(item.shape, box)]
            ImageDraw.Draw(canvas).polygon(corners, fill=PALETTE[item.colour])
    return canvas.reduce(OVERSAMPLING)


def outline(shape: Shape, box: Box) -> list[Point]:
    """The corners of a shape that fills a box."""
    left, top, right, bottom = box
    return [(left + x * (right - left), top + y * (bottom - top)) for x, y in _unit_outline(shape)]


@cache
def word_mask(word: str) -> Image.Image:
    """The letters as an image of mode L, 255 on 0, cropped to the ink. Do not change it."""
    font = ImageFont.load_default(FONT_PIXELS)  # packaged with Pillow
    lengths = [math.ceil(font.getlength(letter)) + GAP_PIXELS for letter in word]
    mask = Image.new("L", (sum(lengths) + GAP_PIXELS, 2 * FONT_PIXELS))
    for index, letter in enumerate(word):
        place = (GAP_PIXELS + sum(lengths[:index]), FONT_PIXELS // 4)
        ImageDraw.Draw(mask).text(place, letter, 255, font, stroke_width=STROKE_PIXELS)
    return mask.crop(mask.getbbox())


@cache
def _unit_outline(shape: Shape) -> list[Point]:
    """The corners of a shape that fills the box from (0, 0) to (1, 1)."""
    match shape:
        case "square":
            return [(0, 0), (1, 0), (1, 1), (0, 1)]
        case "triangle":
            return [(0.5, 0), (1, 1), (0, 1)]
        case "circle":
            return _round([1.0] * 96)
        case "star":
            return _round([1.0, 0.42] * 5)


def _round(radii: list[float]) -> list[Point]:
    """Corners at equal angles around a centre, clockwise from the top, scaled to the unit box."""
    angles = [2 * math.pi * index / len(radii) for index in range(len(radii))]
    x = [radius * math.sin(angle) for radius, angle in zip(radii, angles, strict=True)]
    y = [-radius * math.cos(angle) for radius, angle in zip(radii, angles, strict=True)]
    return list(zip(_to_unit(x), _to_unit(y), strict=True))


def _to_unit(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def _boxes(scene: Scene, generator: random.Random) -> list[Box]:
    """One box for each item."""
    if scene.relation is not None:
        return _related(scene.relation, generator)
    if scene.kind == "counting":
        return _scattered(len(scene.items), generator)
    size = generator.uniform(0.45, 0.65)
    reach = 0.5 - MARGIN - size * (1 + STRETCH) / 2  # of the centre, from the middle
    x, y = (0.5 + generator.uniform(-reach, reach) for _ in "xy")
    return [_box(x, y, size, generator)]


def _related(relation: Relation, generator: random.Random) -> list[Box]:
    """Two boxes, side by side or one above the other, which are never diagonal."""
    boxes = []
    for along in (0.27, 0.73):
        along += generator.uniform(-0.03, 0.03)
        across = 0.5 + generator.uniform(-0.08, 0.08)
        x, y = (along, across) if relation == "left of" else (across, along)
        boxes.append(_box(x, y, generator.uniform(0.29, 0.34), generator))
    return boxes


def _scattered(number: int, generator: random.Random) -> list[Box]:
    """Boxes of about the same size in random cells of a grid of 3 x 3 cells."""
    size = generator.uniform(0.22, 0.245)
    cells = generator.sample(range(9), number)
    centres = [(0.5 + 0.31 * (cell % 3 - 1), 0.5 + 0.31 * (cell // 3 - 1)) for cell in cells]
    nudge = 0.01
    return [
        _box(
            x + generator.uniform(-nudge, nudge),
            y + generator.uniform(-nudge, nudge),
            size,
            generator,
        )
        for x, y in centres
    ]


def _box(x: float, y: float, size: float, generator: random.Random) -> Box:
    """A box around (x, y), stretched a little."""
    width, height = (size * (1 + generator.uniform(-STRETCH, STRETCH)) for _ in "xy")
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _write(canvas: Image.Image, lettering: Lettering, generator: random.Random) -> None:
    """Write the word on the canvas: a mask, shrunk to a random size, at a random place."""
    mask = word_mask(lettering.word)
    room = 1 - 2 * MARGIN
    largest = min(room / mask.width, 0.55 / mask.height) * canvas.width
    scale = largest * generator.uniform(0.92, 1.0)
    mask = mask.resize((round(mask.width * scale), round(mask.height * scale)))
    left, top = (
        round(canvas.width * MARGIN + generator.random() * (canvas.width * room - length))
        for length in mask.size
    )
    canvas.paste(PALETTE[lettering.colour], (left, top), mask)
