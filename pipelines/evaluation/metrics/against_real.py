"""Compare a column of images with real ones, in the features of one network."""

# N rows, D features

from collections.abc import Callable

from torch import Tensor

from pipelines.evaluation.metrics.metric import Score, Split, TooFewRows
from pipelines.evaluation.samples import PROBES
from unclip.metrics import Estimate, cmmd, frechet_resampled, inside, kid, mean_of

# Of images and real ones, each (N, D).
Measure = Callable[[Tensor, Tensor], Estimate]

MIN_ROWS = 8  # statistics of fewer rows are meaningless
KID_SCALE = 1000  # as publications give it


def against_real(split: Split, *, measure: Measure, judge: str, image: str = "generated") -> Score:
    """`measure` of images and their originals.

    The baseline are the images of untrained models, the reference are real training images. Raises
    `TooFewRows` for fewer than `MIN_ROWS`.
    """
    rows = split.samples.probes if image in PROBES else split.samples
    count = min(len(rows), len(split.reference))
    if count < MIN_ROWS:
        raise TooFewRows(MIN_ROWS)
    real = rows.features("original", judge)
    floor = measure(split.reference.features(judge)[:count], real[:count])
    return Score(
        measure(rows.features(image, judge), real),
        baseline=measure(rows.features("untrained", judge), real),
        reference=lambda weights: floor(weights[:, :count]),
        rows=len(rows),
    )


def kernel_distance(images: Tensor, real: Tensor) -> Estimate:
    """1000 times the unbiased KID."""
    return lambda weights: KID_SCALE * kid(images, real, weights=weights)


def unbiased_cmmd(images: Tensor, real: Tensor) -> Estimate:
    """The unbiased CMMD."""
    return lambda weights: cmmd(images, real, weights=weights)


def frechet(images: Tensor, real: Tensor) -> Estimate:
    """The Fréchet distance."""
    return lambda weights: frechet_resampled(images, real, weights)


def precision(images: Tensor, real: Tensor) -> Estimate:
    """The share of images that lie among real ones."""
    return mean_of(inside(images, real))


def recall(images: Tensor, real: Tensor) -> Estimate:
    """The share of real images that lie among these."""
    return mean_of(inside(real, images))
