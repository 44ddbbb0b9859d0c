"""A metric: how to compute a number, what it means, and the baseline that it has to beat."""

# N rows, R reference rows, E width of the CLIP embeddings

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from pipelines.evaluation.samples import Reference, Samples
from unclip.metrics import Estimate, bootstrap_weights, interval

Comparison = Literal["better", "worse", "unclear", "none"]


@dataclass(frozen=True)
class Split:
    """The data from which the metrics of one split are computed."""

    name: str  # HELD_OUT or TRAINING
    samples: Samples  # N rows
    reference: Reference  # R real images of training pairs

    @property
    def reference_count(self) -> int:
        """The number of reference rows to compare with the samples: at most as many as those."""
        return min(len(self.samples), len(self.reference))


@lru_cache
def weights_of(rows: int) -> Tensor:
    """How often each of N rows is drawn: once, and in R resamples; (1 + R, N).

    The same for all metrics of as many rows, so that their differences have intervals.
    """
    return bootstrap_weights(rows, generator=torch.Generator().manual_seed(0))


class TooFewRows(Exception):  # noqa: N818 - says why a metric is left out
    """A metric needs more rows than a split has."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"needs {needed}")
        self.needed = needed


class Score(NamedTuple):
    """Estimates over the split's rows: of a metric, and of what it is compared with."""

    value: Estimate
    baseline: Estimate  # reached without any learning
    reference: Estimate | None = None  # reached by real images: a ceiling or a floor
    rows: int | None = None  # of the estimates; None: all rows of the split


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The definition of a metric; to add one, list it in `suite.metrics_of`.

    `reference_name` may hold {reference_count}, the rows of the reference.
    """

    name: str  # "subject/what", as in "prior/cosine"
    meaning: str
    baseline_name: str
    score: Callable[[Split], Score]  # may raise `TooFewRows`
    higher_is_better: bool = True
    independent: bool = True  # whether what judges had no part in training the models
    is_descriptive: bool = False  # whether no value is better than another
    reference_name: str | None = None

    def measure(self, split: Split) -> "Measurement":
        """The metric of one split. Raises `TooFewRows`."""
        score = self.score(split)
        weights = weights_of(score.rows or len(split.samples))
        value, baseline = score.value(weights), score.baseline(weights)
        gain = (value - baseline) * (1 if self.higher_is_better else -1)
        return Measurement(
            split=split.name,
            name=self.name,
            value=Figure.of(value),
            baseline=Figure.of(baseline),
            reference=score.reference and Figure.of(score.reference(weights)),
            gain=Figure.of(gain),
            baseline_name=self.baseline_name,
            higher_is_better=self.higher_is_better,
            independent=self.independent,
            is_descriptive=self.is_descriptive,
            meaning=self.meaning,
            reference_name=self.reference_name
            and self.reference_name.format(reference_count=split.reference_count),
        )


class Figure(NamedTuple):
    """A value with its 95% confidence interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """From an estimate's plain value and its values on resamples, (1 + R,)."""
        return cls(float(values[0]), *interval(values))


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A metric on one split, with everything that is needed to read it."""

    split: str
    name: str
    value: Figure
    baseline: Figure
    gain: Figure  # over the baseline, on the same resamples; positive is better
    baseline_name: str
    higher_is_better: bool
    independent: bool
    is_descriptive: bool
    meaning: str
    reference: Figure | None = None
    reference_name: str | None = None

    @property
    def full_name(self) -> str:
        """The name with the split in front; unique in an evaluation."""
        return f"{self.split}/{self.name}"

    @property
    def comparison(self) -> Comparison:
        """How the value compares with the baseline, given the interval of their difference."""
        if self.is_descriptive:
            return "none"
        if self.gain.low > 0:
            return "better"
        return "worse" if self.gain.high < 0 else "unclear"

    def record(self) -> dict[str, Any]:
        """The entry in metrics.json."""
        figures = {
            name: None if figure is None else figure._asdict()
            for name, figure in (
                ("value", self.value),
                ("baseline", self.baseline),
                ("gain", self.gain),
                ("reference", self.reference),
            )
        }
        return {**vars(self), **figures, "comparison": self.comparison}
