"""Metrics of colour: whether a generated image has the colour of the caption's own image."""

# B images, S side of a thumbnail; thumbnails (B, S, S, 3) in [0, 1]

from collections.abc import Iterator

import numpy as np
from einops import rearrange

from pipelines.evaluation.metrics.metric import Metric, Score, Split
from unclip.metrics import constant, mean_of

BACKGROUND_DISTANCE = 0.15  # in RGB in [0, 1]; pixels closer to the border's are background
MIN_FOREGROUND = 0.02  # share of the pixels; with less, the whole image counts as foreground


def colour_metrics() -> Iterator[Metric]:
    """The distance of foreground colours, and how often the caption's own original is closer."""
    yield Metric(
        name="colour/distance",
        score=distance_to_own,
        baseline_name="another caption's original",
        higher_is_better=False,
        meaning="distance in RGB between the mean foreground colours of the generated image and "
        "of the original",
    )
    yield Metric(
        name="colour/closer_to_own",
        score=closer_to_own,
        baseline_name="chance",
        meaning="how often the generated colour is closer to the caption's own original than to "
        "another original",
    )


def distance_to_own(split: Split) -> Score:
    """The mean distance of generated images to their own originals, and to other originals."""
    distances = generated_to_original(split)
    own, other = (np.diag(each).copy() for each in (distances, np.roll(distances, 1, axis=1)))
    return Score(mean_of(own), baseline=mean_of(other))


def closer_to_own(split: Split) -> Score:
    """How often a generated image is closer to its own original than to another."""
    closer = shares_closer_to_own(generated_to_original(split))
    return Score(mean_of(closer), baseline=constant(0.5))


def generated_to_original(split: Split) -> np.ndarray:
    """Colour distances of every generated image to every original; (N, N)."""
    return colour_distances(
        foreground_colours(split.samples.thumbnails("generated")),
        foreground_colours(split.samples.thumbnails("original")),
    )


def foreground_colours(thumbnails: np.ndarray) -> np.ndarray:
    """The mean colour of the pixels that differ from the border's median colour; (B, 3)."""
    pixels = rearrange(thumbnails, "b h w c -> b (h w) c")
    border = np.concatenate(
        [thumbnails[:, 0], thumbnails[:, -1], thumbnails[:, 1:-1, 0], thumbnails[:, 1:-1, -1]],
        axis=1,
    )
    background = np.median(border, axis=1, keepdims=True)  # (B, 1, 3)
    weights = np.linalg.norm(pixels - background, axis=-1) > BACKGROUND_DISTANCE  # (B, S * S)
    weights[weights.mean(axis=1) < MIN_FOREGROUND] = True
    total = np.einsum("bp,bpc->bc", weights.astype(np.float32), pixels)
    means: np.ndarray = total / weights.sum(axis=1, keepdims=True)
    return means


def colour_distances(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance of each of (B, 3) to each of (C, 3); (B, C)."""
    distances: np.ndarray = np.linalg.norm(colours[:, None] - others[None], axis=-1)
    return distances


def shares_closer_to_own(distances: np.ndarray) -> np.ndarray:
    """For each row, how many of the other columns are farther than its own: 0.5 by chance; (B,).

    distances: (B, B), with a row's own column on the diagonal. Ties count half.
    """
    own = np.diag(distances)[:, None]  # (B, 1)
    ties = (own == distances).sum(axis=1) - 1
    wins: np.ndarray = (own < distances).sum(axis=1) + 0.5 * ties
    return wins / (len(distances) - 1)
