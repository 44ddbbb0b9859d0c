"""Metrics of pixels: are generated images as rough and as colourful as real ones?"""

from collections.abc import Iterator
from functools import partial

from pipelines.evaluation.metrics.metric import Metric, Score, Split
from unclip.metrics import Estimate, mean_of

MEANINGS = {
    "roughness": "Laplacian (root mean square) of generated images over that of the originals; "
    "speckle and noise raise it, blur lowers it",
    "colourfulness": "chroma of the coloured pixels of generated images over that of the "
    "originals; guidance that is too strong raises it",
}


def pixel_metrics() -> Iterator[Metric]:
    """Ratios to the originals: 1 is ideal, and neither higher nor lower is better."""
    for statistic, meaning in MEANINGS.items():
        yield Metric(
            name=f"pixels/{statistic}",
            score=partial(ratio_to_originals, statistic=statistic),
            baseline_name="untrained models",
            is_descriptive=True,
            meaning=f"mean {meaning}",
        )


def ratio_to_originals(split: Split, *, statistic: str) -> Score:
    """The mean of a statistic over that of the originals."""
    real = mean_of(split.samples.numbers(f"original_{statistic}"))

    def ratio(image: str) -> Estimate:
        mean = mean_of(split.samples.numbers(f"{image}_{statistic}"))
        return lambda weights: mean(weights) / real(weights)

    return Score(ratio("generated"), baseline=ratio("untrained"))
