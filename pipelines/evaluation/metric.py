"""A number together with what it has to be compared with."""

from dataclasses import asdict, dataclass
from typing import Any

HELD_OUT, TRAINING = "held_out", "training"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of one split, and the value that nothing learned would reach."""

    split: str  # HELD_OUT or TRAINING
    name: str  # "subject/what", as in "prior/cosine"
    value: float
    baseline: float
    baseline_name: str
    higher_is_better: bool
    meaning: str
    reference: float | None = None  # what real pictures reach: a ceiling or a floor
    reference_name: str | None = None

    @property
    def full_name(self) -> str:
        """Unique over splits."""
        return f"{self.split}/{self.name}"

    @property
    def beats_baseline(self) -> bool:
        """Whether the value lies on the better side."""
        if self.higher_is_better:
            return self.value > self.baseline
        return self.value < self.baseline

    def record(self) -> dict[str, Any]:
        """As it stands in metrics.json."""
        return {**asdict(self), "beats_baseline": self.beats_baseline}
