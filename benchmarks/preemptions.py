"""Goodput of a training while spot machines leave and join as in a recorded trace.

`python -m benchmarks.preemptions` starts 10 Ray nodes on this machine, each with room for one
worker, and trains a small model with `unclip.training.train` under `run_worker_group`, as a stage
does. `spot_nodes` has the nodes and the trace. A node that leaves is drained 120 s before it goes.

Each microbatch sleeps for as long as a larger model would compute, so that two cores carry many
workers. Each node takes about 1.2 GiB of memory: 18 fit into 24 GiB. Goodput is that of a run's
metric: time of the steps that were kept over wall time.
"""

import argparse
import datetime
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, groupby, pairwise
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster
from torch import Tensor, nn

from benchmarks.spot_nodes import FEWEST, Change, Fleet, read_changes
from benchmarks.timing import machine
from pipelines.core.cluster import connected
from pipelines.core.events import Event, Note
from pipelines.core.folder import Folder
from pipelines.core.regroup import Regroup, RegroupError
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.shards import PoolSettings
from pipelines.core.worker_group import run_worker_group
from pipelines.training.checkpoints import StoreCheckpoints
from unclip.training import Batch, Keep, TrainingConfig, train

MICROBATCH_S = 0.07
CPU = torch.device("cpu")
STAGE = "spot"
STEPS = "steps.jsonl"  # one line for each step, in the order in which they were taken
END = "end"  # written when the replay is over
Entry = dict[str, float]
CONFIG = TrainingConfig(
    steps=1_000_000,
    batch_size=60,
    logical_ranks=60,
    learning_rate=1e-3,
    lr_schedule="constant",
    warmup_steps=1,
    weight_decay=0.01,
    adam_beta1=0.9,
    adam_beta2=0.99,
    adam_eps=1e-8,
    max_grad_norm=1.0,
    ema_decay=0.9,
    precision="float32",
    log_every_steps=1,
    checkpoint_every_steps=100,
    keep_checkpoints=2,
    sample_every_steps=None,
    seed=0,
)


def train_worker(config: Mapping[str, Any]) -> None:
    """Train until the replay is over. Rank 0 writes down every step."""
    torch.set_num_threads(1)
    context = ray.train.get_context()
    rank, workers, folder = context.get_world_rank(), context.get_world_size(), config["folder"]
    regroup = Regroup(config["resources"], rank, workers)
    steps, end, began = folder.local() / STEPS, folder.local() / END, time.time()

    def write_down(step: int, values: dict[str, float]) -> None:
        entry = {"step": step, "step_time_s": values["step_time_s"], "unix_time": time.time()}
        with steps.open("a") as file:
            file.write(json.dumps(entry | {"workers": workers, "began": began}) + "\n")

    result = train(
        nn.Linear(6, 6),
        loss,
        batches,
        CONFIG,
        checkpoints=StoreCheckpoints(folder, Keep.of(CONFIG)),
        device=CPU,
        rank=rank,
        world_size=workers,
        on_log=write_down,
        stop=lambda: regroup() or end.exists(),
    )
    if not end.exists():
        raise RegroupError(f"stopped with a checkpoint at step {result.step}: {regroup.reason}")


def batches(start_step: int, logical_ranks: tuple[int, ...]) -> Iterator[Sequence[Batch]]:
    """Microbatches of one row."""
    for step in count(start_step):
        yield [{"x": torch.full((1, 6), float(step % 7)), "keys": ["x"]} for _ in logical_ranks]


def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """The loss of a small model, after the time that a large one takes."""
    time.sleep(MICROBATCH_S)
    noise = torch.randn(batch["x"].shape, generator=generator)
    error: Tensor = (model(batch["x"] + 0.1 * noise) - batch["x"]).square().mean()
    return error


def replay(changes: Sequence[Change], options: argparse.Namespace, folder: Folder) -> list[Entry]:
    """Train while nodes leave and join; returns the steps in the order in which they were taken."""
    resources = Resources(workers=options.nodes, min_workers=FEWEST)
    head = {"num_cpus": 0, "include_dashboard": False}
    fleet = Fleet(Cluster(initialize_head=True, head_node_args=head))
    fleet.resize(changes[0].nodes)
    with (
        connected(ClusterSettings(address=fleet.cluster.address)),
        ThreadPoolExecutor(1) as threads,
    ):
        training = threads.submit(
            run_worker_group,
            train_worker,
            {"folder": folder, "resources": resources},
            stage=STAGE,
            folder=folder,
            emit=show,
            settings=PoolSettings(resources=resources, retries=3, wait_s=300),
        )
        while not folder.exists(STEPS) and not training.done():
            time.sleep(1)
        start_s = time.monotonic()
        for change in changes[1:]:
            fleet.wait_until(start_s + change.at_s / options.speed)
            fleet.resize(change.nodes)
        fleet.wait_until(start_s + 60 * options.minutes / options.speed)
        folder.write_bytes(END, b"")
        training.result()
    fleet.cluster.shutdown()  # type: ignore[no-untyped-call]
    return [json.loads(line) for line in (folder.local() / STEPS).read_text().splitlines()]


def show(event: Event) -> None:
    """Print why the training starts again."""
    if isinstance(event, Note):
        print(f"{time.strftime('%X')} {event.text}", file=sys.stderr, flush=True)


def rows(changes: Sequence[Change], steps: Sequence[Entry]) -> dict[str, str]:
    """The lines of the table."""
    from pipelines.training.worker import goodput  # not above: workers would import it too

    differences = [after.nodes - before.nodes for before, after in pairwise(changes)]
    left, joined = [-d for d in differences if d < 0], [d for d in differences if d > 0]
    starts = [list(group) for _, group in groupby(steps, key=lambda entry: entry["began"])]
    typical_s = [statistics.median(e["step_time_s"] for e in entries) for entries in starts]
    restarts = list(zip(starts, starts[1:], typical_s[1:], strict=False))
    # The first step after a start is slow: what exceeds a typical step is part of the restart.
    lost_s = [b[0]["unix_time"] - s - a[-1]["unix_time"] for a, b, s in restarts]
    until_s = [b[0]["began"] - a[-1]["unix_time"] for a, b, _ in restarts]
    kept = list({entry["step"]: entry for entry in steps}.values())
    share = goodput(kept) or 0.0
    wall_s = steps[-1]["unix_time"] - steps[0]["unix_time"]
    slow_s = sum(b[0]["step_time_s"] - s for _, b, s in restarts)
    workers = [entry["workers"] for entry in steps]
    return {
        "duration": f"{wall_s / 60:.1f} min",
        "nodes": f"{min(c.nodes for c in changes)} to {max(c.nodes for c in changes)}",
        "notices": f"{len(left)}, for {sum(left)} nodes",
        "joins": f"{len(joined)}, of {sum(joined)} nodes",
        "workers, min / median / max": " / ".join(
            f"{f(workers):g}" for f in (min, statistics.median, max)
        ),
        "restarts": f"{len(restarts)}",
        "seconds of a restart, median / max": most(lost_s),
        "of these until the worker's function begins": most(until_s),
        "seconds of a step, median / max": most([entry["step_time_s"] for entry in steps]),
        "steps taken": f"{len(steps)}",
        "steps taken twice": f"{len(steps) - len(kept)}",
        "useful steps over all": f"{len(kept) / len(steps):.3f}",
        "goodput": f"**{share:.3f}**",
        "goodput, without what slows first steps": f"{share - slow_s / wall_s:.3f}",
    }


def most(values: Sequence[float]) -> str:
    """The median and the maximum."""
    return f"{statistics.median(values):.1f} / {max(values):.1f}" if values else "none"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10, help="at most; each has one worker")
    parser.add_argument("--start", type=float, default=88, help="minute of the trace")
    parser.add_argument("--minutes", type=float, default=25, help="of the trace")
    parser.add_argument("--speed", type=float, default=1.0, help="minutes of the trace per minute")
    options = parser.parse_args(arguments)
    changes = read_changes(options.start, options.minutes, options.nodes)
    with tempfile.TemporaryDirectory() as scratch:
        steps = replay(changes, options, Folder(scratch))
    sys.stdout.write(f"{datetime.datetime.now(datetime.UTC).date()}, {machine(CPU)}\n\n")
    sys.stdout.write("| | |\n|---|---|\n")
    sys.stdout.writelines(f"| {name} | {value} |\n" for name, value in rows(changes, steps).items())


if __name__ == "__main__":
    # Workers find the function by the name of its module.
    importlib.import_module("benchmarks.preemptions").main()
