"""Metrics of the driver's machine, under the names that MLflow's page of system metrics shows."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

EVERY_S = 10.0


class SystemMetrics:
    """Samples use of CPU, memory, disk, network and GPUs, at most every `EVERY_S`.

    Utilisation is the mean since the sample before.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.monitors = list(_monitors())
        self.sampled_at = clock()
        self.samples = 0

    @property
    def is_due(self) -> bool:
        """Whether the last sample is old enough."""
        return self.clock() - self.sampled_at >= EVERY_S

    def sample(self) -> tuple[int, dict[str, float]]:
        """The number of the sample, and its values by name."""
        self.sampled_at = self.clock()
        self.samples += 1
        values: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return self.samples, {f"system/{name}": value for name, value in values.items()}


def _monitors() -> Iterator[Any]:  # they are untyped
    kinds: tuple[Any, ...] = (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor)
    for kind in kinds:
        with contextlib.suppress(ImportError, RuntimeError):  # no GPU, or no library for it
            yield kind()
