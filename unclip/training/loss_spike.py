"""Noticing a step that would harm the model, before it is taken."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

_HISTORY = 101  # losses that the running median looks back on
_ENOUGH = 20  # losses before a median says anything


class TrainingDiverged(RuntimeError):  # noqa: N818 - it says what happened
    """Training keeps failing from the same checkpoint."""


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """What one logical rank saw in a step."""

    logical_rank: int
    loss: float
    keys: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A step that was refused, and where training went back to."""

    step: int
    reason: str
    back_to: int
    keys: tuple[str, ...]  # of the samples that may be at fault

    def __str__(self) -> str:
        shown = ", ".join(self.keys[:8]) + (", ..." if len(self.keys) > 8 else "")
        return (
            f"step {self.step} refused ({self.reason}); back to step {self.back_to}, "
            f"and this step will be skipped. Samples: {shown or 'the batch names none'}"
        )


@dataclass
class LossSpikeDetector:
    """Judges each step against the losses of those before it."""

    max_loss_ratio: float | None
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def loss_spike(self, loss: float, grad_norm: float) -> str | None:
        """Why the step must not be taken, or None; every rank answers alike."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient norm is {grad_norm}"
        if self.max_loss_ratio is None or len(self.losses) < _ENOUGH:
            return None
        usual = median(self.losses)
        if usual > 0 and loss > self.max_loss_ratio * usual:
            return f"the loss {loss:.4g} is {loss / usual:.3g} times the running median"
        return None


def suspects(reports: Sequence[RankReport]) -> tuple[str, ...]:
    """Keys of the ranks whose loss is not finite, or else of all, the largest loss first."""
    broken = [r for r in reports if not math.isfinite(r.loss)]
    ordered = broken or sorted(reports, key=lambda r: -r.loss)
    return tuple(key for report in ordered for key in report.keys)
