"""Training end to end, with loading: the project's worker against the trainers of others.

`python -m benchmarks.trainers demo --store STORE` takes the rows of a finished run. It writes them
once in the form that each contestant reads (training_rows.py). In each round, each contestant
starts a training of the same steps on one core, which its loader's threads or processes share:

- unclip: the worker that a run starts, with its loader, log entries and checkpoints in a store
  (trainers_unclip.py);
- dalle2-pytorch: its trainers and its own loaders (trainers_dalle2.py);
- diffusers: a loop as in its example scripts, with torch's DataLoader (trainers_diffusers.py).

The clock of a step runs from one forward pass to the next, so it includes loading, clipping, AdamW
and averaging. The first steps are not counted. Within the others, each contestant saves one
checkpoint, and ours makes one log entry. With the default steps, nobody sees a row twice.
"""

import argparse
import datetime
import importlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from benchmarks import trainers_unclip
from benchmarks.recipe import read_sources
from benchmarks.sizes import CPU, TINY
from benchmarks.timing import Seconds, machine, median, ratio
from benchmarks.training_rows import Case, wide_embeddings, write_files
from pipelines.config.load import load_config
from pipelines.core.store import Store
from pipelines.data.shard_reader import ShardFiles, training_files
from pipelines.graph import unclip_graph

THEIRS = {
    "dalle2-pytorch": "benchmarks.trainers_dalle2",
    "diffusers": "benchmarks.trainers_diffusers",
}
MODELS = {  # and the libraries that train it here
    "prior": ("dalle2-pytorch", "diffusers"),
    "decoder": ("dalle2-pytorch", "diffusers"),
    "upsampler": ("diffusers",),
}
STEPS = {"prior": 24, "decoder": 8, "upsampler": 8}  # that are counted
WARM_UP = 4  # steps before them, in which our loader fills its window


class Clock(list[Seconds]):
    """Seconds of the process, its threads and its loader's processes, when it is called."""

    def __call__(self) -> None:
        """Append the current reading."""
        own = time.process_time()
        for child in multiprocessing.active_children():
            times = psutil.Process(child.pid).cpu_times()
            own += times.user + times.system
        self.append(Seconds(own, time.perf_counter()))

    def steps(self) -> list[Seconds]:
        """The duration of each step after the warm-up."""
        counted = pairwise(self[WARM_UP:])
        return [Seconds(b.cpu - a.cpu, b.wall - a.wall) for a, b in counted]


@dataclass
class Contestant:
    """A library and what it took in each round."""

    library: str
    parameters: int
    rounds: list[list[Seconds]]  # of each step

    def per_step(self, *, plain: bool) -> list[Seconds]:
        """In each round: the mean of a step, or the median, which leaves out the checkpoint."""
        of = statistics.median if plain else statistics.mean
        return [Seconds(*(of(clock) for clock in zip(*r, strict=True))) for r in self.rounds]

    def checkpoint_s(self) -> float:
        """CPU seconds of a checkpoint, and of ours also of a log entry."""
        extra = (sum(s.cpu - statistics.median(t.cpu for t in r) for s in r) for r in self.rounds)
        return statistics.median(extra)


def race(case: Case, libraries: Sequence[str], *, rounds: int) -> list[Contestant]:
    """Every library trains in every round; each round starts with a different one."""
    train = {"unclip": trainers_unclip.train}
    for name in libraries:
        train[name] = getattr(importlib.import_module(THEIRS[name]), case.model)
    entered = [Contestant(name, 0, []) for name in train]
    for first in range(rounds):
        for contestant in (*entered[first % len(entered) :], *entered[: first % len(entered)]):
            clock = Clock()
            torch.manual_seed(first)
            contestant.parameters = train[contestant.library](case, clock)
            contestant.rounds.append(clock.steps())
    return entered


def rows(case: Case, entered: Sequence[Contestant]) -> list[str]:
    """Rows of the table, ours first; a ratio is their time over ours within a round."""
    lines, ours, batch = [], entered[0], case.sizes.batch
    for contestant in entered:
        steps, means = (contestant.per_step(plain=plain) for plain in (True, False))
        step, mean = median(steps), median(means)
        ratios = ["", ""]
        if contestant is not ours:
            found = (
                ratio(steps, ours.per_step(plain=True)),
                ratio(means, ours.per_step(plain=False)),
            )
            ratios = [f"**{r.cpu:.2f}** ({r.wall:.2f})" for r in found]
        cells = [
            f"{case.model}, {batch}",
            contestant.library,
            f"{contestant.parameters / 1e6:.1f}M",
            f"{batch / mean.wall:.2f}",
            f"{batch / mean.cpu:.2f}",
            f"{step.cpu:.3f} s",
            f"{step.wall:.3f} s",
            f"{contestant.checkpoint_s():.2f} s",
            *ratios,
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return lines


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="a packaged configuration, or a path")
    parser.add_argument("--store", required=True, help="of a run of it that finished")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--against", nargs="*", choices=list(THEIRS), default=list(THEIRS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=CPU.batch)
    parser.add_argument("--steps", type=int, help="that are counted (default: by model)")
    parser.add_argument("--short", action="store_true", help="captions as they are, with padding")
    parser.add_argument("--tiny", action="store_true", help="only check that everything runs")
    return parser.parse_args(arguments)


def training_shards(config_name: str, store: str) -> tuple[ShardFiles, ...]:
    """The shards of a finished run."""
    sources = read_sources(unclip_graph(load_config(config_name)), Store(store))
    return training_files(sources.pairs, sources.embeddings, sources.selection)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = parse(arguments)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # threads and processes inherit it
    torch.set_num_threads(1)
    sizes = replace(TINY if args.tiny else CPU, batch=args.batch)
    sys.stdout.write(
        f"{datetime.datetime.now(datetime.UTC).date()}, {machine(torch.device('cpu'))}\n\n"
        "| model, batch | library | parameters | samples/s | samples per CPU second | CPU time of "
        "a step | wall clock | checkpoint | step over ours | with the checkpoint |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stored = training_shards(args.config, args.store)
        shards = wide_embeddings(stored, sizes.embed_dim, folder / "shards")
        write_files(shards, folder)
        for model in args.models:
            counted = args.steps or STEPS[model]
            case = Case(
                model,
                sizes,
                folder,
                shards,
                steps=WARM_UP + counted + 1,  # the last one only ends the clock
                save_at=WARM_UP + (counted + 1) // 2,
                padded=args.short,
            )
            libraries = [name for name in args.against if name in MODELS[model]]
            sys.stdout.writelines(rows(case, race(case, libraries, rounds=args.rounds)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
