"""Loss spikes: detects a step that would harm the model, before the update."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

MEDIAN_WINDOW = 101  # losses in the running median, one per step
MIN_LOSSES = 20  # with fewer losses the median is not used
SHOWN_KEYS = 8  # sample keys in one message, at most


class TrainingDiverged(RuntimeError):  # noqa: N818 - the name says what happened
    """Too many steps after the same checkpoint were loss spikes."""


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """The loss and the sample keys of one logical rank in one step."""

    logical_rank: int
    loss: float
    keys: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A step that was not taken, and the checkpoint to which training returned."""

    step: int
    reason: str
    back_to: int  # step of the checkpoint
    keys: tuple[str, ...]  # of samples that may be the cause, most likely first

    def __str__(self) -> str:
        shown = ", ".join(self.keys[:SHOWN_KEYS]) + (", ..." if len(self.keys) > SHOWN_KEYS else "")
        return (
            f"step {self.step} was not taken ({self.reason}); training goes back to step "
            f"{self.back_to} and skips this step. Samples: {shown or 'the batch has no keys'}"
        )


@dataclass
class LossSpikeDetector:
    """Compares the loss of a step with the losses of the steps before it."""

    max_loss_ratio: float | None  # None: only non-finite values are spikes
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=MEDIAN_WINDOW))

    def find_spike(self, loss: float, grad_norm: float) -> str | None:
        """The reason not to take the step, or None; the result is the same on every rank."""
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
    """Sample keys of the ranks with a non-finite loss; if none, of all ranks by falling loss."""
    not_finite = [report for report in reports if not math.isfinite(report.loss)]
    ordered = not_finite or sorted(reports, key=lambda report: -report.loss)
    return tuple(key for report in ordered for key in report.keys)
