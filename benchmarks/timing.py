"""Timing that is robust against other work on the machine."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch


class Seconds(NamedTuple):
    """The duration of one run."""

    cpu: float  # CPU time of this process, which other processes affect little
    wall: float


Run = Callable[[], object]


def race(runs: Sequence[Run], *, rounds: int) -> list[list[Seconds]]:
    """The times of each run in each round, after a warm-up round.

    A round calls all runs one after the other, and each round starts with a different one, so that
    a temporary slowdown of the machine affects all of them.
    """
    times: list[list[Seconds]] = [[] for _ in runs]
    for run in runs:
        run()
    for first in range(rounds):
        for i in range(len(runs)):
            index = (first + i) % len(runs)
            times[index].append(timed(runs[index]))
    return times


def timed(run: Run) -> Seconds:
    """Time one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def median(times: Sequence[Seconds]) -> Seconds:
    """The median of each clock separately."""
    return Seconds(*(statistics.median(clock) for clock in zip(*times, strict=True)))


def ratio(slower: Sequence[Seconds], faster: Sequence[Seconds]) -> Seconds:
    """The median over rounds of the ratio within a round, for each clock separately."""
    pairs = zip(slower, faster, strict=True)
    return median([Seconds(s.cpu / f.cpu, s.wall / f.wall) for s, f in pairs])


def machine(device: torch.device) -> str:
    """The name of the GPU, or of the CPU with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} thread(s)"
