"""Metrics of the decoder: how well it reproduces an image from its embedding, without a caption."""

# P probes, S side of a thumbnail

from collections.abc import Iterator
from functools import partial

import numpy as np

from pipelines.evaluation.metrics.metric import Metric, Score, Split
from unclip.metrics import cosines, mean_of

BASELINES = {  # suffix of the metric's name → column of images to compare with, in words
    "": ("from_shuffled_embedding", "decoded from another image's embedding"),
    "_over_text": ("generated", "generated from the caption"),
}


def decoder_metrics() -> Iterator[Metric]:
    """Both metrics against both baselines."""
    for suffix, (column, baseline_name) in BASELINES.items():
        yield Metric(
            name=f"decoder/clip_cosine{suffix}",
            score=partial(cosine_to_original, baseline=column),
            baseline_name=baseline_name,
            independent=False,
            meaning="CLIP cosine of the original to the image decoded from its embedding",
        )
        yield Metric(
            name=f"decoder/squared_error{suffix}",
            score=partial(error_to_original, baseline=column),
            baseline_name=baseline_name,
            higher_is_better=False,
            meaning="mean squared error between the original and the image decoded from its "
            "embedding, at 16 pixels with colours in [0, 1]",
        )


def cosine_to_original(split: Split, *, baseline: str) -> Score:
    """The mean CLIP cosine of reconstructions, and of the images in the column `baseline`."""
    probes = split.samples.probes
    images = probes.embeds("image_embeds")
    value, other = (
        mean_of(cosines(probes.embeds(f"{column}_embeds"), images))
        for column in ("from_true_embedding", baseline)
    )
    return Score(value, other, rows=len(probes))


def error_to_original(split: Split, *, baseline: str) -> Score:
    """The mean squared error of reconstructions, and of the images in the column `baseline`."""
    probes = split.samples.probes
    original = probes.thumbnails("original")  # (P, S, S, 3)
    value, other = (
        mean_of(np.square(probes.thumbnails(column) - original).mean((1, 2, 3)))
        for column in ("from_true_embedding", baseline)
    )
    return Score(value, other, rows=len(probes))
