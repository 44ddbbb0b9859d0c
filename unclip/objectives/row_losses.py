"""The losses of single rows, for curves by timestep.

A loss returns the mean over its rows. A loss with timesteps also reports the rows, and the training
loop collects the reports. Nothing else depends on them.
"""

# B batch

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Report = tuple[Tensor, Tensor]  # timesteps (B,) int64, losses (B,) without gradient

_reports: ContextVar[list[Report] | None] = ContextVar("reports", default=None)


@contextmanager
def collected_rows() -> Iterator[list[Report]]:
    """A list of the reports that are made within."""
    reports: list[Report] = []
    token = _reports.set(reports)
    try:
        yield reports
    finally:
        _reports.reset(token)


def report_rows(timesteps: Tensor, losses: Tensor) -> None:
    """Report the loss of each row (B,) at its timestep (B,); no-op if nobody collects."""
    reports = _reports.get()
    if reports is not None:
        reports.append((timesteps, losses.detach()))
