"""Statistics of an image's pixels that show common faults of diffusion models."""

# S side in pixels

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from pipelines.artifacts.schema import PIXEL_STATISTICS

GREY = 0.1  # largest chroma of a pixel that counts as grey


def roughness(image: Image.Image) -> float:
    """The root mean square of the luminance's Laplacian, for luminance in [0, 1].

    Speckle and noise raise it, blur lowers it.
    """
    y = np.asarray(image.convert("L"), np.float32) / 255  # (S, S)
    around = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:]
    return float(np.sqrt(np.square(around - 4 * y[1:-1, 1:-1]).mean()))


def colourfulness(image: Image.Image) -> float:
    """The mean chroma of the pixels that are not grey; 0 if all are.

    Chroma is the largest minus the smallest of R, G and B in [0, 1]. Guidance that is too strong
    raises it; the size of an object on a grey or white ground does not.
    """
    rgb = np.asarray(image.convert("RGB"), np.float32) / 255  # (S, S, 3)
    chroma = rgb.max(axis=-1) - rgb.min(axis=-1)  # (S, S)
    coloured = chroma[chroma > GREY]
    return float(coloured.mean()) if coloured.size else 0.0


STATISTICS: Mapping[str, Callable[[Image.Image], float]] = dict(
    zip(PIXEL_STATISTICS, (roughness, colourfulness), strict=True)
)
