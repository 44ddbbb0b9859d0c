"""How long a checkpoint stalls a training, which writes it in the background.

`python -m benchmarks.checkpoint_stall` trains a transformer in this process, and prints the times
of a step, of a step during a save, of the call that saves (the copy to host memory), and of the
whole save. The last columns are parts of the loop's time, at a checkpoint every `--every` steps:
that in which it stands still, and that in which it would if it waited for the save.
"""

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from benchmarks.bytes_per_parameter import TRAINING, loss
from benchmarks.timing import machine
from unclip.models.transformer import Transformer
from unclip.training import Keep, LocalCheckpoints, Parallel
from unclip.training.parallel import Workers
from unclip.training.state import TrainState


def measure(width: int, *, rounds: int) -> tuple[float, dict[str, float]]:
    """The number of parameters, and seconds by what was done; medians over the rounds."""
    torch.manual_seed(0)
    model = Transformer(width=width, depth=16, heads=8)
    times: dict[str, list[float]] = {"step": [], "call": [], "save": [], "step meanwhile": []}
    with tempfile.TemporaryDirectory() as folder:
        state = TrainState(
            model,
            loss,
            TRAINING,
            LocalCheckpoints(Path(folder), keep=Keep(1)),
            Workers(rank=0, world_size=1, device=torch.device("cpu")),
            Parallel(),
            print,
        )
        batches = [{"x": torch.randn(1, 8, width)} for _ in state.logical_ranks]

        def step() -> float:
            began = time.perf_counter()
            state.update(state.gradients(batches, stop=False))
            return time.perf_counter() - began

        step()
        for _ in range(rounds):
            times["step"] += [step(), step()]
            began = time.perf_counter()
            state.save()
            times["call"].append(time.perf_counter() - began)
            times["step meanwhile"].append(step())
            state.checkpoints.wait()
            times["save"].append(time.perf_counter() - began)
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, {name: median(values) for name, values in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--tiny", action="store_true", help="only check that everything runs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sys.stdout.write(
        f"{datetime.datetime.now(datetime.UTC).date()}, {machine(torch.device('cpu'))}\n\n"
        "| parameters | step | step during a save | call | save | "
        f"loop waits, every {options.every} steps | if it waited for the save |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    for width in [32] if options.tiny else options.widths:
        parameters, times = measure(width, rounds=1 if options.tiny else options.rounds)
        interval = options.every * times["step"]
        cells = [
            f"{parameters / 1e6:.1f}M",
            *(f"{times[name]:.3f} s" for name in ("step", "step meanwhile", "call", "save")),
            *(f"**{times[name] / (interval + times[name]):.2%}**" for name in ("call", "save")),
        ]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
