"""A metric: how to compute a number, what it means, and the baseline that it has to beat."""

# N rows, R reference rows, E width of the CLIP embeddings

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

from pipelines.evaluation.samples import Samples


@dataclass(frozen=True)
class Split:
    """The data from which the metrics of one split are computed."""

    name: str  # HELD_OUT or TRAINING
    samples: Samples  # N rows
    reference: Tensor  # image embeddings of training pairs, (R, E); see `rows.REFERENCE`

    @property
    def reference_count(self) -> int:
        """The number of reference rows to compare with the samples: at most as many as those."""
        return min(len(self.samples), len(self.reference))


class Score(NamedTuple):
    """The value of a metric, and the values to compare it with."""

    value: float
    baseline: float  # reached without any learning
    reference: float | None = None  # reached by real images: a ceiling or a floor


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The definition of a metric; to add one, list it in `suite.metrics_of`.

    The texts may hold {count} and {reference_count}, the rows of the split and of the reference.
    """

    name: str  # "subject/what", as in "prior/cosine"
    meaning: str
    baseline_name: str
    score: Callable[[Split], Score | None]  # None if the split has too few rows
    higher_is_better: bool = True
    reference_name: str | None = None

    def measure(self, split: Split) -> "Measurement | None":
        """The metric of one split, or None if the split has too few rows."""
        score = self.score(split)
        if score is None:
            return None
        counts = {"count": len(split.samples), "reference_count": split.reference_count}
        return Measurement(
            split=split.name,
            name=self.name,
            **score._asdict(),
            baseline_name=self.baseline_name,
            higher_is_better=self.higher_is_better,
            meaning=self.meaning.format(**counts),
            reference_name=self.reference_name and self.reference_name.format(**counts),
        )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The value of a metric on one split, with everything that is needed to read it."""

    split: str
    name: str
    value: float
    baseline: float
    baseline_name: str
    higher_is_better: bool
    meaning: str
    reference: float | None = None
    reference_name: str | None = None

    @property
    def full_name(self) -> str:
        """The name with the split in front; unique in an evaluation."""
        return f"{self.split}/{self.name}"

    @property
    def beats_baseline(self) -> bool:
        """Whether the value is on the better side of the baseline; equal is not better."""
        if self.higher_is_better:
            return self.value > self.baseline
        return self.value < self.baseline

    def record(self) -> dict[str, Any]:
        """The entry in metrics.json."""
        return {**asdict(self), "beats_baseline": self.beats_baseline}
