"""Loss spikes: finding a step that would harm the model before it is taken."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

MEDIAN_WINDOW = 101  # losses in the running median
MIN_LOSSES = 20  # fewer losses give no usable median
SHOWN_KEYS = 8  # of samples, in one message


class TrainingDiverged(RuntimeError):  # noqa: N818 - it says what happened
    """Too many steps after the same checkpoint had to be skipped."""


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """Loss and sample keys of one logical rank in a step."""

    logical_rank: int
    loss: float
    keys: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A step that was not taken, and the checkpoint that training returned to."""

    step: int
    reason: str
    back_to: int  # step of the checkpoint
    keys: tuple[str, ...]  # of the samples that may be the cause, the most likely first

    def __str__(self) -> str:
        shown = ", ".join(self.keys[:SHOWN_KEYS]) + (", ..." if len(self.keys) > SHOWN_KEYS else "")
        return (
            f"step {self.step} was not taken ({self.reason}); training goes back to step "
            f"{self.back_to} and skips this step. Samples: {shown or 'the batch has no keys'}"
        )


@dataclass
class LossSpikeDetector:
    """Compares the loss of a step with the losses of the steps before it."""

    max_loss_ratio: float | None  # None: only values that are not finite are spikes
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=MEDIAN_WINDOW))

    def find_spike(self, loss: float, grad_norm: float) -> str | None:
        """The reason not to take a step, or None; the answer is the same on every rank."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient norm is {grad_norm}"
        if self.max_loss_ratio is None or len(self.losses) < MIN_LOSSES:
            return None
        typical = median(self.losses)
        if typical > 0 and loss > self.max_loss_ratio * typical:
            return f"the loss {loss:.4g} is {loss / typical:.3g} times the running median"
        return None


def suspect_keys(reports: Sequence[RankReport]) -> tuple[str, ...]:
    """Keys of the ranks whose loss is not finite; else of all ranks, the largest loss first."""
    not_finite = [report for report in reports if not math.isfinite(report.loss)]
    ordered = not_finite or sorted(reports, key=lambda report: -report.loss)
    return tuple(key for report in ordered for key in report.keys)
