"""Memory of a training on each of two workers, with DDP and with sharded weights.

`python -m benchmarks.bytes_per_parameter` trains a transformer on two processes (gloo), and prints
the resident memory that it adds to a process, in bytes per parameter of the model: between two
steps, at the peak within a step, and at the peak while the averaged weights are used. Activations
are small.
"""

import argparse
import datetime
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.timing import machine
from pipelines.config.load import load_config
from unclip.models.transformer import Transformer
from unclip.training import Batch, Keep, LocalCheckpoints, Parallel
from unclip.training.parallel import Workers
from unclip.training.state import TrainState

WORKERS = 2
# Large blocks go back to the system when they are freed, so resident memory is what is in use.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WAYS = {
    "replicated (DDP)": Parallel(),
    "sharded over 2": Parallel(shard_workers=WORKERS),
    "replicated, fixed summation": Parallel(summation="fixed"),
    "sharded over 2, fixed summation": Parallel(shard_workers=WORKERS, summation="fixed"),
}
TRAINING = replace(load_config("demo").decoder.training, batch_size=4, logical_ranks=4)


@dataclass(frozen=True)
class Sizes:
    """The transformer and the steps before the one that is measured."""

    width: int = 512
    depth: int = 16
    warm_up_steps: int = 2


TINY = Sizes(width=32, depth=2, warm_up_steps=1)


def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """A loss over one sequence of eight tokens."""
    x: Tensor = batch["x"]
    predicted: Tensor = model(x, torch.ones(1, 1, 8, 8, dtype=torch.bool))
    return (predicted - x).square().mean()


def measure(rank: int, way: str, sizes: Sizes, folder: str) -> None:
    """Train on this worker; rank 0 writes its figures to a file."""
    torch.set_num_threads(1)
    meet = f"file://{folder}/store-{way}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=WORKERS)
    figures_of(rank, way, TINY)  # what torch loads and allocates once
    dist.barrier()
    parameters, *values = figures_of(rank, way, sizes)
    if rank == 0:
        Path(f"{folder}/{way}.txt").write_text(" ".join(map(str, [parameters, *values])))
    dist.barrier()
    os._exit(0)


def figures_of(rank: int, way: str, sizes: Sizes) -> list[float]:
    """Parameters, and bytes per parameter: between steps, peak of a step, peak while sampling."""
    gc.collect()
    before = resident()
    torch.manual_seed(0)
    model = Transformer(width=sizes.width, depth=sizes.depth, heads=8)
    parameters = sum(p.numel() for p in model.parameters())
    state = TrainState(
        model,
        loss,
        TRAINING,
        LocalCheckpoints(Path(), keep=Keep(1)),  # none is saved
        Workers(rank=rank, world_size=WORKERS, device=torch.device("cpu")),
        WAYS[way],
        print,
    )
    batches = [{"x": torch.randn(1, 8, sizes.width)} for _ in state.logical_ranks]

    def step() -> None:
        state.update(state.gradients(batches, stop=False))

    def sample() -> None:
        state.call_with_average(
            lambda model: model(batches[0]["x"], torch.ones(1, 1, 8, 8, dtype=torch.bool))
        )

    for _ in range(sizes.warm_up_steps):
        step()
    gc.collect()
    figures = [resident(), peak_of(step), peak_of(sample)]
    return [parameters, *((figure - before) / parameters for figure in figures)]


def resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_of(call: Callable[[], None]) -> int:
    """The largest resident memory while `call` runs, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    call()
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def row(way: str, sizes: Sizes) -> str:
    """Train in two new processes; a row of the table."""
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(target=measure, args=(rank, way, sizes, folder))
            for rank in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        parameters, *values = map(float, Path(f"{folder}/{way}.txt").read_text().split())
    cells = [way, f"{parameters / 1e6:.1f}M", *(f"{value:.1f}" for value in values)]
    return f"| {' | '.join(cells)} |\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="only check that everything runs")
    options = parser.parse_args(arguments)
    os.environ.update(ENVIRONMENT)
    sizes = TINY if options.tiny else Sizes()
    sys.stdout.write(
        f"{datetime.datetime.now(datetime.UTC).date()}, {machine(torch.device('cpu'))}\n\n"
        "| two workers | parameters | between steps | peak of a step | peak while sampling |\n"
        "|---|---|---|---|---|\n"
    )
    for way in list(WAYS)[: 2 if options.tiny else None]:
        sys.stdout.write(row(way, sizes))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
