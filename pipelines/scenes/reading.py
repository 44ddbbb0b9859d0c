"""What an image shows, whatever it should show: its objects, or the word on it.

H height, W width of the working image; h, w of a template
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from string import ascii_uppercase
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pipelines.scenes.colours import NO_COLOUR, WHITE_INDEX, WORKING_SIDE, areas, colour_map
from pipelines.scenes.drawing import outline, word_mask
from pipelines.scenes.scene import COLOURS, SHAPES, WORDS, Colour, Shape

SMALLEST_AREA = 0.003  # of an object, as a share of the image; less is a speck
LARGEST_SIDE = 0.9  # of a shape, as a share of the image's; more is a background
SHAPE_SIDE = 48  # of the templates of shapes
WORD_SIZE = (120, 48)  # width and height of the templates of words
SHAPE_BLURS = (0.0, 0.02, 0.04, 0.06, 0.08)  # of the templates, as shares of the shape's side
# Smallest intersection over union with a template. Thin corners suffer most from JPEG and blur; a
# circle and a square overlap by 0.8.
SHAPE_IOU: Mapping[Shape, float] = {"circle": 0.86, "square": 0.86, "triangle": 0.8, "star": 0.78}
LETTER_IOU = 0.75  # of the letter that fits worst
SHAPE_ASPECT = 1.3  # the largest ratio of a shape's sides
WORD_ASPECT = 1.25  # the largest ratio of a word's aspect ratio to the template's

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class FoundObject:
    """A connected area of one colour."""

    shape: Shape | None  # None: like no shape
    colour: Colour | None  # None: like no colour
    centre: tuple[float, float]  # of its bounding box: x, y, as shares of the image's side


@dataclass(frozen=True)
class Content:
    """What an image shows."""

    objects: tuple[FoundObject, ...]  # letters are objects too
    word: str | None  # that all ink together forms, in whatever colours


def read(image: Image.Image) -> Content:
    """The objects of a square image, and the word of the list that they form, if any."""
    colours = colour_map(image)  # (H, W)
    objects, ink = [], np.zeros(colours.shape, bool)
    for index in (*range(WHITE_INDEX), NO_COLOUR):
        colour = COLOURS[index] if index < WHITE_INDEX else None
        for area in areas(colours == index, smallest=SMALLEST_AREA):
            ink |= area
            objects.append(_found(area, colour))
    return Content(tuple(objects), _word(ink))


def _found(area: Mask, colour: Colour | None) -> FoundObject:
    x, y, width, height = cv2.boundingRect(area.astype(np.uint8))
    centre = ((x + width / 2) / WORKING_SIDE, (y + height / 2) / WORKING_SIDE)
    is_background = max(width, height) > LARGEST_SIDE * WORKING_SIDE
    return FoundObject(None if is_background else _shape(area), colour, centre)


def _shape(area: Mask) -> Shape | None:
    """The shape whose template fits best, or None if none fits."""
    cropped, aspect = _cropped(area, (SHAPE_SIDE, SHAPE_SIDE))
    if max(aspect, 1 / aspect) > SHAPE_ASPECT:
        return None
    fits = {
        shape: max(_iou(cropped, template) for template in _shape_templates(shape))
        for shape in SHAPES
    }
    best = max(SHAPES, key=fits.__getitem__)
    return best if fits[best] >= SHAPE_IOU[best] else None


def _word(ink: Mask) -> str | None:
    """The word of the list whose letters fit, or None if others fit better."""
    if not ink.any():
        return None
    cropped, aspect = _cropped(ink, WORD_SIZE)
    best = max(WORDS, key=lambda word: _worst_letter(cropped, aspect, word))
    fit = _worst_letter(cropped, aspect, best)
    misspelt = (_worst_letter(cropped, aspect, word) for word in _misspellings(best))
    return best if fit >= LETTER_IOU and fit > max(misspelt) else None


def _misspellings(word: str) -> Iterator[str]:
    """Every word with one other letter."""
    for index, letter in product(range(len(word)), ascii_uppercase):
        if letter != word[index]:
            yield word[:index] + letter + word[index + 1 :]


def _worst_letter(cropped: Mask, aspect: float, word: str) -> float:
    """The smallest intersection over union of a letter; 0 if the aspect ratio differs."""
    template, expected, edges = _word_template(word)
    if max(aspect / expected, expected / aspect) > WORD_ASPECT:
        return 0.0
    columns = [slice(*edge) for edge in pairwise(edges)]
    return min(_iou(cropped[:, place], template[:, place]) for place in columns)


def _cropped(mask: Mask, size: tuple[int, int]) -> tuple[Mask, float]:
    """The bounding box of a mask, scaled to `size` (w, h), and its width over its height. (h, w)"""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    box = mask[y : y + height, x : x + width].astype(np.float32)
    return cv2.resize(box, size, interpolation=cv2.INTER_AREA) > 0.5, width / height


def _iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


@cache
def _shape_templates(shape: Shape) -> tuple[Mask, ...]:
    """A shape that fills its box, sharp and with blunt corners. Each (SHAPE_SIDE, SHAPE_SIDE)"""
    side = 4 * SHAPE_SIDE
    large = Image.new("L", (2 * side, 2 * side))  # with room for the blur
    box = (side / 2, side / 2, 1.5 * side, 1.5 * side)
    ImageDraw.Draw(large).polygon(outline(shape, box), fill=255)
    blurred = [large.filter(ImageFilter.GaussianBlur(blur * side)) for blur in SHAPE_BLURS]
    size = (SHAPE_SIDE, SHAPE_SIDE)
    return tuple(_cropped(np.asarray(each) > 127, size)[0] for each in blurred)


@cache
def _word_template(word: str) -> tuple[Mask, float, tuple[int, ...]]:
    """The mask of a word (h, w), its aspect ratio, and the columns between its letters."""
    mask, aspect = _cropped(np.asarray(word_mask(word)) > 127, WORD_SIZE)
    steps = np.diff(mask.any(axis=0).astype(int))  # (w - 1,)
    starts = np.flatnonzero(steps < 0) + 1  # of the gaps
    ends = np.flatnonzero(steps > 0) + 1
    middles = ((starts + ends) // 2).tolist()
    return mask, aspect, (0, *middles, mask.shape[1])
