"""Whether a picture has the right colour, on thumbnails."""

# B pictures, S side of a thumbnail; pictures (B, S, S, 3) in [0, 1]

import numpy as np
from einops import rearrange

BACKGROUND_DISTANCE = 0.15  # in RGB of the unit cube: nearer to the border's colour is background
LEAST_FOREGROUND = 0.02  # of the pixels; with fewer, the whole picture counts


def foreground_colours(pictures: np.ndarray) -> np.ndarray:
    """The mean colour of what differs from the border's median colour; (B, 3)."""
    pixels = rearrange(pictures, "b h w c -> b (h w) c")
    border = np.concatenate(
        [pictures[:, 0], pictures[:, -1], pictures[:, 1:-1, 0], pictures[:, 1:-1, -1]], axis=1
    )
    background = np.median(border, axis=1, keepdims=True)  # (B, 1, 3)
    weights = np.linalg.norm(pixels - background, axis=-1) > BACKGROUND_DISTANCE  # (B, S * S)
    weights[weights.mean(axis=1) < LEAST_FOREGROUND] = True
    total = np.einsum("bp,bpc->bc", weights.astype(np.float32), pixels)
    means: np.ndarray = total / weights.sum(axis=1, keepdims=True)
    return means


def distances(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance of each (B, 3) to each (C, 3); (B, C)."""
    apart: np.ndarray = np.linalg.norm(colours[:, None] - others[None], axis=-1)
    return apart


def share_closer_to_own(apart: np.ndarray) -> float:
    """How often a row is nearer to its own column than to another: 0.5 by chance, 1 at best.

    apart: (B, B), the own one on the diagonal. Ties count half.
    """
    own = np.diag(apart)[:, None]  # (B, 1)
    wins = (own < apart).sum() + 0.5 * ((own == apart).sum() - len(apart))
    return float(wins / (len(apart) * (len(apart) - 1)))
