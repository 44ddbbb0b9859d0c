"""Times that other work on the machine disturbs little."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch


class Seconds(NamedTuple):
    """Of one run."""

    cpu: float  # of this process: what counts on a shared machine
    wall: float


Run = Callable[[], object]


def race(runs: Sequence[Run], *, rounds: int) -> list[list[Seconds]]:
    """Each run's times, round by round, after a round that warms up.

    A round runs all of them one after the other, and each round another one first, so that what
    slows the machine down for a while slows all.
    """
    times: list[list[Seconds]] = [[] for _ in runs]
    for run in runs:
        run()
    for first in range(rounds):
        for i in range(len(runs)):
            number = (first + i) % len(runs)
            times[number].append(timed(runs[number]))
    return times


def timed(run: Run) -> Seconds:
    """Of one call, on one thread."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def median(times: Sequence[Seconds]) -> Seconds:
    """Of each clock for itself."""
    return Seconds(*(statistics.median(clock) for clock in zip(*times, strict=True)))


def ratio(slower: Sequence[Seconds], faster: Sequence[Seconds]) -> Seconds:
    """The median over the rounds of the quotient within a round, of each clock for itself."""
    pairs = zip(slower, faster, strict=True)
    return median([Seconds(s.cpu / f.cpu, s.wall / f.wall) for s, f in pairs])


def machine(device: torch.device) -> str:
    """What it runs on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} thread(s)"
