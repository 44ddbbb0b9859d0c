"""What the training loop costs beside its steps, under Ray Train.

`python -m benchmarks.loop demo --store STORE` takes the data of a finished run and trains its
models again in a worker of Ray Train, as a run does: rows of the store, checkpoints, logs. Each
round also takes the same steps without the loop: forward, backward, clipping, AdamW and averaging,
on batches in memory. A ratio is the time of such a bare step over that of a step in the loop.

The last column is what a restart takes in a worker that Ray Train has started: to read the last
checkpoint and its first rows, take one step, save, and publish the weights.
"""

import argparse
import datetime
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.recipe import read_sources
from benchmarks.timing import machine
from pipelines.artifacts import HISTORY_FILE
from pipelines.config.load import load_config
from pipelines.core.cluster import connected
from pipelines.core.events import Event
from pipelines.core.folder import Folder
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.shards import PoolSettings
from pipelines.core.store import Store
from pipelines.core.worker_group import run_worker_group
from pipelines.data.shard_reader import held_out_files, training_files
from pipelines.graph import unclip_graph
from pipelines.training.checkpoints import WORKING
from pipelines.training.tasks import ModelTask
from pipelines.training.training_job import TrainingJob
from pipelines.training.worker import TrainingWorker
from unclip.training import Ema, adamw, seed_logical_rank, to_device

STAGE = "loop"
RESULT = "times.json"
CPU = torch.device("cpu")


def ignore(event: Event) -> None:
    """An `Emit` that drops events."""


def in_worker(config: Mapping[str, Any]) -> None:
    """In each round, time a bare step, a step in the loop, and a restart; publish the seconds."""
    torch.set_num_threads(1)
    job: TrainingJob = config["job"]
    times = []
    for number in range(config["rounds"]):
        folder = Folder(job.folder.file(f"round-{number}"))
        worker = TrainingWorker(replace(job, folder=folder), rank=0, world_size=1, device=CPU)
        bare_s = bare(worker, config["steps"] // 4)
        worker.run()
        own_s = loop_s(folder.read_json(HISTORY_FILE))
        times.append([bare_s, own_s, restart_s(worker.job)])
    job.folder.write_json(RESULT, times)


def restart_s(job: TrainingJob) -> float:
    """Seconds to resume one step before the end, and to finish."""
    last = f"{WORKING}/step-{job.training.steps:08d}"
    job.folder.remove_files(f"{last}/{name}" for name in job.folder.sizes(last))
    began = time.perf_counter()
    TrainingWorker(job, rank=0, world_size=1, device=CPU).run()
    return time.perf_counter() - began


def bare(worker: TrainingWorker, steps: int) -> float:
    """Seconds of a step of the model that the worker trains, on the same rows, in memory."""
    job = worker.job
    torch.manual_seed(job.training.seed)
    model = job.task.build().train()
    optimizer, ema = adamw(model, job.training), Ema(model, decay=job.training.ema_decay)
    loader = worker.loader((0,))
    batches = [to_device(loader.read(step)[0], CPU) for step in range(steps)]
    took_s = []
    for step in range(steps):
        began = time.perf_counter()
        generator = seed_logical_rank(job.training.seed, step, 0, device=CPU)
        bfloat16 = job.training.precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = job.task.loss(model, batches[step], generator)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if job.training.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), job.training.max_grad_norm)
        optimizer.step()
        ema.update()
        loss.item()
        took_s.append(time.perf_counter() - began)
    return statistics.mean(took_s[1:])


def loop_s(history: Sequence[Mapping[str, float]]) -> float:
    """Seconds of a step between the first and the last log entry, whatever they were spent on."""
    entries = [entry for entry in history if "unix_time" in entry]
    first, last = entries[0], entries[-1]
    return (last["unix_time"] - first["unix_time"]) / (last["step"] - first["step"])


def row(
    config_name: str, store: Store, name: str, *, steps: int, rounds: int, folder: Folder
) -> str:
    """Train one model in a worker; a row of the table."""
    config = load_config(config_name)
    sources = read_sources(unclip_graph(config), store)
    read = (sources.pairs, sources.embeddings, sources.selection)
    section, resources = config.models[name], Resources(cpus=1)
    training = replace(
        section.training,
        steps=steps,
        lr_schedule="cosine",  # else the last checkpoint is an output
        warmup_steps=0,
        checkpoint_every_steps=steps - 1,
        keep_checkpoints=2,
    )
    job = TrainingJob(
        stage=STAGE,
        task=ModelTask(section.model, preview_seed=0),
        training=replace(
            training, logical_ranks=1, sample_every_steps=None, validate_every_steps=None
        ),
        shuffle_rows=config.loader.shuffle_rows,
        resources=resources,
        shards=training_files(*read),
        held_out=held_out_files(*read),
        folder=folder,
        emit=ignore,
    )
    run_worker_group(
        in_worker,
        {"job": job, "rounds": rounds, "steps": steps},
        stage=STAGE,
        folder=folder,
        emit=ignore,
        settings=PoolSettings(resources=resources, retries=0, wait_s=60),
    )
    times = folder.read_json(RESULT)
    bare_s, own_s, again_s = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [one / other for one, other, _ in times]
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    return (
        f"| {name} | {training.batch_size} | {1000 * bare_s:.1f} ms | {1000 * own_s:.1f} ms "
        f"| **{statistics.median(ratios):.3f}** | {each} | {again_s:.1f} s |\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="a packaged configuration, or a path")
    parser.add_argument("--store", required=True, help="of a run of it that finished")
    parser.add_argument("--models", nargs="+", default=["prior", "decoder", "upsampler_2"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    sys.stdout.write(
        f"{datetime.datetime.now(datetime.UTC).date()}, {machine(CPU)}\n\n"
        "| model | batch | bare step | in the loop | ratio | rounds | restart |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    with connected(ClusterSettings(cpus=2)), tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            folder = Folder(str(Path(scratch) / name))
            sys.stdout.write(
                row(
                    options.config,
                    Store(options.store),
                    name,
                    steps=options.steps,
                    rounds=options.rounds,
                    folder=folder,
                )
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
