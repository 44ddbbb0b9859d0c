"""Metrics of fidelity by judges that had no part in training: is the image like real ones?"""

from collections.abc import Iterator
from functools import partial

from pipelines.evaluation.judging import BLURRED
from pipelines.evaluation.metrics.against_real import (
    against_real,
    kernel_distance,
    precision,
    recall,
)
from pipelines.evaluation.metrics.metric import Metric, Score, Split
from unclip.metrics import constant, found_at_k, mean_of

REAL = "{reference_count} real training images"


def judge_metrics(judge: str) -> Iterator[Metric]:
    """Distances of generated, reconstructed and blurred images to real ones, by one judge."""
    metric = partial(Metric, baseline_name="untrained models", reference_name=REAL)
    distance = partial(against_real, measure=kernel_distance, judge=judge)
    meaning = f"1000 times the kernel distance (KID, unbiased) between the features of {judge} of"
    yield metric(
        name=f"{judge}/kid",
        score=distance,
        higher_is_better=False,
        meaning=f"{meaning} generated and real images",
    )
    yield metric(
        name=f"{judge}/kid_from_true_embedding",
        score=partial(distance, image="from_true_embedding"),
        higher_is_better=False,
        meaning=f"{meaning} images decoded from the originals' embeddings and real images",
    )
    for image, times in BLURRED.items():
        yield metric(
            name=f"{judge}/kid_{image}",
            score=partial(distance, image=image),
            higher_is_better=False,
            is_descriptive=True,
            meaning=f"{meaning} real images and the same ones at 1/{times} of their resolution; "
            "a yardstick, which says nothing about the models",
        )
    yield metric(
        name=f"{judge}/precision",
        score=partial(against_real, measure=precision, judge=judge),
        is_descriptive=True,
        meaning=f"share of generated images that lie among real ones by {judge}; equal grey images "
        "can reach 100% too, so read it together with recall",
    )
    yield metric(
        name=f"{judge}/recall",
        score=partial(against_real, measure=recall, judge=judge),
        meaning=f"share of real images that lie among generated ones by {judge}",
    )
    yield Metric(
        name=f"{judge}/own_original",
        score=partial(own_original, judge=judge),
        baseline_name="chance",
        meaning="share of generated images whose caption's own original is the nearest of all by "
        f"{judge}",
    )


def own_original(split: Split, *, judge: str) -> Score:
    """How often the caption's own original is the nearest one.

    Far higher for training captions than for held-out ones, it shows memorised images.
    """
    generated, real = (split.samples.features(n, judge) for n in ("generated", "original"))
    found = found_at_k(generated, real, k=1)
    return Score(mean_of(found), constant(1 / len(found)))
