"""The colour of each pixel of an image: one of the palette, white, or none.

H height, W width, both WORKING_SIDE; C colours of the palette, with white; L LEVELS
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipelines.scenes.drawing import PALETTE, WHITE

WORKING_SIDE = 256  # images are scaled to this side first, so that one set of limits fits all
WHITE_INDEX = len(PALETTE)  # the colours of the palette come before it, in their order
NO_COLOUR = WHITE_INDEX + 1

LEVELS = 64  # of red, green and blue each, in the tables of colours
LARGEST_DISTANCE = 28.0  # in CIELAB, from a sure pixel to its colour
LARGEST_FROM_WHITE = 20.0  # likewise; backgrounds may be a little grey
LARGEST_RATIO = 0.6  # of the distances from a sure pixel to its nearest colour and to the next one
SMALLEST_SEED = 0.002  # of connected sure pixels of a colour, as a share of the image
EDGE_PIXELS = 14.0  # mixtures this near to a sure pixel are an edge; 3.5 pixels of 64

Array = np.ndarray[Any, np.dtype[Any]]


def colour_map(image: Image.Image) -> Array:
    """Indices of colours: of the palette in its order, WHITE_INDEX or NO_COLOUR. (H, W), uint8.

    A pixel is sure if one colour is near and all others are far, and, unless it is white, if it is
    not a speck. All others near a sure one are mixtures of its colour with white, as on every
    edge, and have the colour of the larger part. The rest has no colour.
    Raises ValueError if the image is not square.
    """
    pixels = _scaled(image)  # (H, W, 3)
    red, green, blue = np.moveaxis(pixels // (256 // LEVELS), -1, 0)  # (H, W) each
    nearest_of, sure_of = _tables()
    nearest, sure = nearest_of[red, green, blue], sure_of[red, green, blue]  # (H, W) each
    sure &= (nearest == WHITE_INDEX) | _seeds(nearest, sure)
    ink, far = _nearest_ink(nearest, sure & (nearest != WHITE_INDEX))  # (H, W) each
    mixed = np.where(_share(pixels, ink) >= 0.5, ink, WHITE_INDEX)
    others = np.where(far <= EDGE_PIXELS, mixed, NO_COLOUR)
    return np.where(sure, nearest, others).astype(np.uint8)


@cache
def _tables() -> tuple[Array, Array]:
    """Of each RGB colour in steps: the nearest colour, and whether it is sure. (L, L, L) each

    Tables, because distances for each pixel of each image would take most of the time.
    """
    levels = (np.arange(LEVELS, dtype=np.float32) + 0.5) / LEVELS
    steps = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)  # (L, L, L, 3)
    colours = np.array([*PALETTE.values(), WHITE], np.float32) / 255  # (C, 3)
    differences = _lab(steps)[..., None, :] - _lab(colours)  # (L, L, L, C, 3)
    distances = np.linalg.norm(differences, axis=-1)  # (L, L, L, C)
    first, second = np.moveaxis(np.sort(distances, axis=-1)[..., :2], -1, 0)
    nearest = distances.argmin(axis=-1)  # (L, L, L)
    largest = np.where(nearest == WHITE_INDEX, LARGEST_FROM_WHITE, LARGEST_DISTANCE)
    return nearest.astype(np.uint8), (first < largest) & (first < LARGEST_RATIO * second)


def _lab(colours: Array) -> Array:
    """From RGB between 0 and 1 to CIELAB, whatever the shape."""
    return np.asarray(cv2.cvtColor(colours.reshape(1, -1, 3), cv2.COLOR_RGB2Lab)).reshape(
        colours.shape
    )


def areas(mask: Array, *, smallest: float) -> Iterator[Array]:
    """The connected areas of a mask from `smallest` on, a share of the image. (H, W) each, bool"""
    if mask.any():
        _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        sizes = statistics[1:, cv2.CC_STAT_AREA]  # the first one is the rest of the image
        for index in np.flatnonzero(sizes >= smallest * mask.size):
            yield labels == index + 1


def _seeds(nearest: Array, sure: Array) -> Array:
    """The sure pixels of colours, without specks: JPEG turns corners grey, and so almost black."""
    seeds = np.zeros_like(sure)
    for index in range(WHITE_INDEX):
        for area in areas(sure & (nearest == index), smallest=SMALLEST_SEED):
            seeds |= area
    return seeds


def _nearest_ink(nearest: Array, sure: Array) -> tuple[Array, Array]:
    """The colour of the nearest sure pixel, and how far away it is in pixels. (H, W) each"""
    if not sure.any():
        return np.zeros_like(nearest), np.full(nearest.shape, np.inf)
    far, sources = cv2.distanceTransformWithLabels(
        (~sure).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros(sources.max() + 1, nearest.dtype)
    colours[sources[sure]] = nearest[sure]
    return colours[sources], far


def _share(pixels: Array, ink: Array) -> Array:
    """How much of a colour is in a mixture of it with white, from 0 to 1. (H, W)"""
    from_white = np.array([*PALETTE.values()], np.float32) - 255  # (C - 1, 3)
    unit = from_white / (from_white**2).sum(axis=-1, keepdims=True)
    return np.asarray(((pixels.astype(np.float32) - 255) * unit[ink]).sum(axis=-1))


def _scaled(image: Image.Image) -> Array:
    """The image as RGB from 0 to 255, with a little less noise. (H, W, 3), uint8"""
    if image.width != image.height:
        raise ValueError(
            f"The image has {image.width} x {image.height} pixels, and scenes are square. Crop it "
            "to a square before it is checked."
        )
    pixels = np.asarray(image.convert("RGB"))  # (side, side, 3)
    way = cv2.INTER_AREA if image.width > WORKING_SIDE else cv2.INTER_CUBIC
    scaled = cv2.resize(pixels, (WORKING_SIDE, WORKING_SIDE), interpolation=way)
    return np.asarray(cv2.GaussianBlur(scaled, (0, 0), 1.0))
