"""Metrics of fidelity by judges that had no part in training: is the image like real ones?"""

# N rows, D features of a judge

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from pipelines.evaluation.judging import BLURRED
from pipelines.evaluation.metrics.metric import Metric, Score, Split
from unclip.metrics import Estimate, inside, kid, mean_of

MIN_ROWS = 8  # statistics of fewer rows are meaningless
SCALE = 1000  # of KID, as publications give it
REAL = "{reference_count} real training images"


def judge_metrics(judge: str) -> Iterator[Metric]:
    """Distances of generated, reconstructed and blurred images to real ones, by one judge."""
    metric = partial(Metric, baseline_name="untrained models", reference_name=REAL)
    meaning = f"1000 times the kernel distance (KID, unbiased) between the features of {judge} of"
    yield metric(
        name=f"{judge}/kid",
        score=partial(distance, judge=judge, image="generated"),
        higher_is_better=False,
        meaning=f"{meaning} generated and real images",
    )
    yield metric(
        name=f"{judge}/kid_from_true_embedding",
        score=partial(distance, judge=judge, image="from_true_embedding"),
        higher_is_better=False,
        meaning=f"{meaning} images decoded from the originals' embeddings and real images",
    )
    for image, times in BLURRED.items():
        yield metric(
            name=f"{judge}/kid_{image}",
            score=partial(distance, judge=judge, image=image),
            higher_is_better=False,
            is_yardstick=True,
            meaning=f"{meaning} real images and the same ones at 1/{times} of their resolution; "
            "a yardstick, which says nothing about the models",
        )
    yield metric(
        name=f"{judge}/precision",
        score=partial(shares, judge=judge, share=among_real),
        meaning=f"share of generated images that lie among real ones by {judge}",
    )
    yield metric(
        name=f"{judge}/recall",
        score=partial(shares, judge=judge, share=among_generated),
        meaning=f"share of real images that lie among generated ones by {judge}",
    )


def distance(split: Split, *, judge: str, image: str) -> Score | None:
    """KID of a column of images to the originals; None if there are too few rows."""
    rows = split.samples.probes if image == "from_true_embedding" else split.samples
    count = min(len(rows), len(split.reference))
    if count < MIN_ROWS:
        return None
    real = rows.features("original", judge)
    floor = kid_of(split.reference.features(judge)[:count], real[:count])
    return Score(
        kid_of(rows.features(image, judge), real),
        baseline=kid_of(rows.features("untrained", judge), real),
        reference=lambda weights: floor(weights[:, :count]),
        rows=len(rows),
    )


def kid_of(images: Tensor, real: Tensor) -> Estimate:
    """1000 times the unbiased KID of two sets of as many features, (N, D)."""
    return lambda weights: SCALE * kid(images, real, weights=weights)


def shares(
    split: Split, *, judge: str, share: Callable[[Tensor, Tensor], Estimate]
) -> Score | None:
    """A share of generated images; None if there are too few rows."""
    count = split.reference_count
    if count < MIN_ROWS:
        return None
    real, generated, untrained = (
        split.samples.features(image, judge) for image in ("original", "generated", "untrained")
    )
    among = share(split.reference.features(judge)[:count], real[:count])
    return Score(
        share(generated, real),
        baseline=share(untrained, real),
        reference=lambda weights: among(weights[:, :count]),
    )


def among_real(images: Tensor, real: Tensor) -> Estimate:
    """The share of images that lie among real ones."""
    return mean_of(inside(images, real))


def among_generated(images: Tensor, real: Tensor) -> Estimate:
    """The share of real images that lie among these."""
    return mean_of(inside(real, images))
