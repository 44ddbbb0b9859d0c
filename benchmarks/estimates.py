"""Estimated and measured memory of training steps, for DDP and FSDP2 on two processes.

`python -m benchmarks.estimates` trains decoders of three sizes for two steps in two processes of
one machine (gloo), and prints a table. Measured bytes are the peak of what torch's CPU allocator
has handed out since before the model was built.
"""

import argparse
import ctypes
import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch._C._profiler import _EventType
from torch.multiprocessing.spawn import spawn
from torch.profiler import ProfilerActivity, profile
from torch.profiler._utils import traverse_dfs

from benchmarks.bytes_per_parameter import TRAINING, WORKERS
from pipelines.training.cost import CostedTask
from unclip.kinds import spec_of
from unclip.models import DecoderConfig
from unclip.presets import tiny
from unclip.presets.cascades import text_encoder
from unclip.training import Keep, LocalCheckpoints, Parallel
from unclip.training.estimate import estimate_memory
from unclip.training.parallel import Workers
from unclip.training.state import TrainState

Precision = Literal["float32", "bfloat16"]
ROWS = 8  # of a microbatch; a worker has two of them in a step
STEPS = 2
MODES = {
    "DDP": Parallel(),
    "DDP, recomputed": Parallel(checkpoint_activations=True),
    "FSDP": Parallel(shard_workers=WORKERS),
    "FSDP, recomputed": Parallel(shard_workers=WORKERS, checkpoint_activations=True),
}


@dataclass(frozen=True)
class Case:
    """A model, how it is trained, and the precision."""

    model: DecoderConfig
    mode: str
    precision: Precision


def decoders() -> dict[str, DecoderConfig]:
    """Decoders of 32 pixels, by their size."""
    return {
        "small": _decoder(channels=32, text_width=16),
        "middle": _decoder(channels=64, text_width=64),
        "large": _decoder(channels=128, text_width=192),
    }


def _decoder(*, channels: int, text_width: int) -> DecoderConfig:
    base = tiny().decoder
    assert isinstance(base, DecoderConfig)
    text = text_encoder(context_length=24, width=text_width, depth=2, heads=2)
    unet = replace(base.unet, channels=channels, attention_resolutions=(16, 8))
    return replace(base, image_size=32, unet=unet, text_encoder=text)


def estimated(case: Case) -> int:
    """Bytes of the estimate."""
    parallel = MODES[case.mode]
    step, batch_bytes = CostedTask.of_model(case.model).microbatch(
        ROWS,
        device_type="cpu",
        precision=case.precision,
        recomputed=parallel.checkpoint_activations,
        sharded=parallel.shard_workers > 1,
    )
    shards = parallel.shard_workers
    return estimate_memory(step, workers=WORKERS, shards=shards, batch_bytes=batch_bytes).total


def measured(cases: Sequence[Case]) -> list[int]:
    """For each case, the bytes of the worker with the larger peak."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = get_context("spawn").SimpleQueue()
    spawn(_work, (cases, port, results), nprocs=WORKERS)  # type: ignore[no-untyped-call]
    peaks: list[int] = results.get()
    return peaks


def _work(rank: int, cases: Sequence[Case], port: int, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=WORKERS)
    peaks = torch.tensor([allocated(partial(_steps, case, rank)) for case in cases])
    dist.all_reduce(peaks, dist.ReduceOp.MAX)
    if rank == 0:
        results.put(peaks.tolist())
    dist.destroy_process_group()


def _steps(case: Case, rank: int) -> None:
    """Build the model and take some steps."""
    torch.manual_seed(0)
    spec = spec_of(case.model)
    state = TrainState(
        spec.network(case.model),
        spec.loss,
        replace(TRAINING, precision=case.precision),
        LocalCheckpoints(Path(), keep=Keep(1)),  # none is saved
        Workers(rank=rank, world_size=WORKERS, device=torch.device("cpu")),
        MODES[case.mode],
        print,
    )
    for _ in range(STEPS):
        batches = [_batch(case.model) for _ in state.logical_ranks]
        state.update(state.gradients(batches, stop=False))


def allocated(call: Callable[[], None]) -> int:
    """The most bytes that torch's CPU allocator has handed out at the same time during a call.

    The profiler misses what gloo's threads free, and they sometimes hold the last reference to a
    collective's tensors. So the sum of the sizes that it reports grows from step to step. Its
    events also have the allocator's own total, which counts all threads if a flag of torch is set.
    """
    [library] = (Path(torch.__file__).parent / "lib").glob("libc10.*")
    flag = ctypes.c_bool.in_dll(ctypes.CDLL(str(library)), "FLAGS_caffe2_report_cpu_memory_usage")
    flag.value = True
    gc.collect()  # else tensors from before would be subtracted when they are freed
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    assert profiler.profiler is not None
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    events = [event for event in traverse_dfs(tree) if event.tag == _EventType.Allocation]
    first = min(events, key=attrgetter("start_time_ns")).extra_fields
    before = first.total_allocated - first.alloc_size
    return int(max(event.extra_fields.total_allocated for event in events) - before)


def _batch(model: DecoderConfig) -> dict[str, Any]:
    return {
        name: torch.ones(ROWS, *shape, dtype=torch.int64)
        if name == "tokens"
        else torch.randn(ROWS, *shape)
        for name, shape in CostedTask.of_model(model).shapes().items()
    }


def lines(
    sizes: Sequence[str], modes: Sequence[str], precisions: Sequence[Precision]
) -> Iterator[str]:
    """The lines of the table."""
    yield "| parameters | how | precision | estimated | measured | ratio |\n"
    yield "|---|---|---|---|---|---|\n"
    for size in sizes:
        model = decoders()[size]
        with torch.device("meta"):
            parameters = sum(p.numel() for p in spec_of(model).network(model).parameters())
        cases = [Case(model, mode, precision) for mode in modes for precision in precisions]
        for case, found in zip(cases, measured(cases), strict=True):
            expected = estimated(case)
            yield (
                f"| {parameters / 1e6:.1f}M | {case.mode} | {case.precision} "
                f"| {expected / 2**20:.0f} MiB | {found / 2**20:.0f} MiB "
                f"| **{expected / found:.2f}** |\n"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(decoders()), default=list(decoders()))
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    args = parser.parse_args(arguments)
    for line in lines(args.sizes, args.modes, args.precisions):
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
