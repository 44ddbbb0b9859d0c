"""What the log says of the steps since its last entry."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Averages over steps; `latest` is the entry that was made last."""

    def __init__(self, *, batch_size: int) -> None:
        self.latest: dict[str, float] = {}
        self._batch_size = batch_size
        self.reset()

    def reset(self) -> None:
        """Forget the steps since the last entry."""
        self._steps, self._loss, self._grad_norm, self._rate = 0, 0.0, 0.0, 0.0
        self._waited_s, self._since_s = 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        start_s = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start_s

    def add(self, *, loss: float, grad_norm: float, learning_rate: float) -> None:
        """Take in one step."""
        self._steps += 1
        self._loss += loss
        self._grad_norm += grad_norm
        self._rate = learning_rate

    def flush(self) -> dict[str, float]:
        """Make an entry of the steps so far and start anew; the last entry again without steps."""
        if self._steps:
            elapsed_s = max(time.perf_counter() - self._since_s, 1e-9)
            self.latest = {
                "loss": self._loss / self._steps,
                "grad_norm": self._grad_norm / self._steps,
                "learning_rate": self._rate,
                "samples_per_s": self._steps * self._batch_size / elapsed_s,
                "step_time_s": elapsed_s / self._steps,
                "data_wait_fraction": self._waited_s / elapsed_s,
            }
        self.reset()
        return self.latest
