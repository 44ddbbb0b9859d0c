"""Statistics of an image's pixels that show common faults of diffusion models."""

# S side in pixels

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from pipelines.artifacts.schema import PIXEL_STATISTICS


def roughness(image: Image.Image) -> float:
    """The root mean square of the luminance's Laplacian, for luminance in [0, 1].

    Speckle and noise raise it, blur lowers it.
    """
    y = np.asarray(image.convert("L"), np.float32) / 255  # (S, S)
    around = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:]
    return float(np.sqrt(np.square(around - 4 * y[1:-1, 1:-1]).mean()))


def colourfulness(image: Image.Image) -> float:
    """The mean chroma: the largest minus the smallest of R, G and B in [0, 1].

    Guidance that is too strong raises it.
    """
    rgb = np.asarray(image.convert("RGB"), np.float32) / 255  # (S, S, 3)
    return float((rgb.max(axis=-1) - rgb.min(axis=-1)).mean())


STATISTICS: Mapping[str, Callable[[Image.Image], float]] = dict(
    zip(PIXEL_STATISTICS, (roughness, colourfulness), strict=True)
)
