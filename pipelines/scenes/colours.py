"""The colour of each pixel of an image: one of the palette, white, or none.

H height, W width, both WORKING_SIDE; C colours of the palette, with white
"""

from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipelines.scenes.drawing import PALETTE, WHITE

WORKING_SIDE = 256  # images are scaled to this side first, so that one set of limits fits all
WHITE_INDEX = len(PALETTE)  # the colours of the palette come before it, in their order
NO_COLOUR = WHITE_INDEX + 1

LARGEST_DISTANCE = 34.0  # in CIELAB, from a sure pixel to its colour
LARGEST_RATIO = 0.6  # of the distances from a sure pixel to its nearest colour and to the next one
EDGE_PIXELS = 14.0  # mixtures this near to a sure pixel are an edge; 3.5 pixels of 64

Array = np.ndarray[Any, np.dtype[Any]]


def colour_map(image: Image.Image) -> Array:
    """Indices of colours: of the palette in its order, WHITE_INDEX or NO_COLOUR. (H, W), int64.

    A pixel is sure if one colour is near and all others are far. All others near a sure one are
    mixtures of its colour with white, as on every edge, and have the colour of the larger part.
    Raises ValueError if the image is not square.
    """
    pixels = _scaled(image)  # (H, W, 3)
    distances = _distances(pixels)  # (H, W, C)
    nearest = distances.argmin(axis=-1)  # (H, W)
    first, second = np.moveaxis(np.partition(distances, 1, axis=-1)[..., :2], -1, 0)
    sure = (first < LARGEST_DISTANCE) & (first < LARGEST_RATIO * second)  # (H, W)
    ink, far = _nearest_ink(nearest, sure & (nearest != WHITE_INDEX))  # (H, W) each
    mixed = np.where(_share(pixels, ink) >= 0.5, ink, WHITE_INDEX)
    elsewhere = np.where(nearest == WHITE_INDEX, WHITE_INDEX, NO_COLOUR)
    return np.where(sure, nearest, np.where(far <= EDGE_PIXELS, mixed, elsewhere))


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
    from_white = np.array([*PALETTE.values()], np.float32) / 255 - 1  # (C - 1, 3)
    unit = from_white / (from_white**2).sum(axis=-1, keepdims=True)
    return np.einsum("hwc,hwc->hw", pixels - 1, unit[ink])


def _scaled(image: Image.Image) -> Array:
    """The image as floats from 0 to 1, with a little less noise. (H, W, 3)"""
    if image.width != image.height:
        raise ValueError(
            f"The image has {image.width} x {image.height} pixels, and scenes are square. Crop it "
            "to a square before it is checked."
        )
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255  # (side, side, 3)
    way = cv2.INTER_AREA if image.width > WORKING_SIDE else cv2.INTER_CUBIC
    scaled = cv2.resize(pixels, (WORKING_SIDE, WORKING_SIDE), interpolation=way)
    return np.clip(cv2.GaussianBlur(scaled, (0, 0), 1.0), 0.0, 1.0)


def _distances(pixels: Array) -> Array:
    """From each pixel to each colour, in CIELAB. (H, W, C)"""
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab)  # (H, W, 3)
    return np.stack([np.linalg.norm(lab - colour, axis=-1) for colour in _lab_palette()], axis=-1)


@cache
def _lab_palette() -> Array:
    """The palette and white in CIELAB. (C, 3)"""
    colours = np.array([[*PALETTE.values(), WHITE]], np.float32) / 255  # (1, C, 3)
    return np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2Lab)[0])
