"""One worker of any training: the loop of `unclip.training`, fed from shards."""

import json
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import nn

from pipelines.artifacts import HISTORY_FILE, SAMPLE_FILE, TRAINING_FILE
from pipelines.core.events import Metrics, Note, Output, Progress
from pipelines.core.filesystem import StoreWriteError
from pipelines.core.regroup import Regroup, RegroupError
from pipelines.core.resources import GIB
from pipelines.data.held_out import held_out_batches
from pipelines.data.loader import TrainingLoader
from pipelines.training.checkpoints import StoreCheckpoints
from pipelines.training.cost import utilisation
from pipelines.training.training_job import TrainingJob
from unclip.clip.tokenizer import simple_tokenizer
from unclip.training import (
    VALIDATION_LOSS,
    Batch,
    Keep,
    Rollback,
    TrainingResult,
    WorkerHangsError,
    to_device,
    train,
    validation_losses,
)

log = logging.getLogger(__name__)


def train_worker(config: Mapping[str, Any]) -> None:
    """The function that Ray Train runs on every worker."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    worker = TrainingWorker(
        config["job"],
        rank=rank,
        world_size=world_size,
        device=ray.train.torch.get_device(),
        regroup=Regroup(config["job"].resources, rank, world_size),
    )
    worker.run()


@dataclass
class TrainingWorker:
    """One rank of a training job. Rank 0 emits events and writes the results."""

    job: TrainingJob
    rank: int
    world_size: int
    device: torch.device
    regroup: Regroup | None = None  # None: not under Ray Train
    history: list[dict[str, float]] = field(default_factory=list)
    source: TrainingLoader | None = None  # of the training's batches

    def run(self) -> None:
        """Train to the end and publish the averaged weights."""
        job = self.job
        log.info("%s: rank %d of %d on %s", job.stage, self.rank, self.world_size, self.device)
        model = self.build()
        if self.rank == 0:
            self.history = _read_history(job)
        try:
            result = self.train(model)
        except WorkerHangsError as error:
            raise RegroupError(str(error)) from error
        if not result.finished:
            reason = self.regroup.reason if self.regroup else ""
            raise RegroupError(f"stopped with a checkpoint at step {result.step}: {reason}")
        if self.rank == 0:
            self.publish(model, result)

    def build(self) -> nn.Module:
        """The model before its first step, without values if rank 0 sends the weights."""
        if self.rank > 0 and self.job.parallel.shares_weights(self.world_size):
            return self.job.task.build_empty()
        torch.manual_seed(self.job.training.seed)  # the untrained weights
        return self.job.task.build()

    def train(self, model: nn.Module) -> TrainingResult:
        """Run the loop of `unclip.training` on the model, from the last checkpoint on."""
        return train(
            model,
            self.job.task.loss,
            self.batches,
            self.job.training,
            checkpoints=self.checkpoints(),
            device=self.device,
            rank=self.rank,
            world_size=self.world_size,
            parallel=self.job.parallel,
            on_log=self.log,
            on_sample=self.sample,
            on_validation=self.validate if self.job.held_out else None,
            on_checkpoint=self.keep_history,
            on_rollback=self.note_rollback,
            on_notice=self.notice,
            stop=self.regroup,
        )

    def checkpoints(self) -> StoreCheckpoints:
        """The checkpoints of this training and of the shorter one that it continues."""
        training = self.job.training
        # Where the schedule is constant, a longer training can continue from the last state.
        final_step = training.steps if training.lr_schedule == "constant" else None
        return StoreCheckpoints(
            self.job.folder,
            Keep.of(training),
            final_step=final_step,
            start=self.job.start,
        )

    def batches(self, start_step: int, logical_ranks: tuple[int, ...]) -> Iterator[Sequence[Batch]]:
        """The microbatches of this rank from a step on."""
        if self.rank == 0 and start_step:
            self.job.emit(Note(self.job.stage, f"resumes at step {start_step}"))
        self.history = [entry for entry in self.history if entry["step"] <= start_step]
        self.source = self.loader(logical_ranks)
        return self.source.batches(start_step)

    def loader(self, logical_ranks: Sequence[int]) -> TrainingLoader:
        """The loader of some logical ranks."""
        tokenize = simple_tokenizer(self.job.task.context_length)
        config = replace(self.job.loader, pin_memory=self.device.type == "cuda")
        return TrainingLoader(
            self.job.shards, config, own_logical_ranks=logical_ranks, tokenize=tokenize
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Emit the metrics and the progress of a step."""
        own = {
            "loader_gib": self.source.nbytes / GIB if self.source else 0.0,
            "memory_gib": _peak_bytes(self.device) / GIB,
        }
        if self.job.step_flops and self.job.peak_flops_per_s:
            own["utilisation"] = utilisation(
                self.job.step_flops,
                1 / values["step_time_s"],
                gpus=self.world_size * self.job.resources.gpus,
                peak_flops_per_s=self.job.peak_flops_per_s,
            )
        clock = {"unix_time": time.time()}
        if (share := goodput([*self.history, {"step": step} | values | clock])) is not None:
            own["goodput"] = share
        self.record(step, values | own)
        self.history[-1] |= clock
        stage, steps = self.job.stage, self.job.training.steps
        self.job.emit(Progress(stage, step, steps, "steps", f"loss {values['loss']:.4f}"))

    def record(self, step: int, values: dict[str, float]) -> None:
        """Emit values of a step, and keep them for the curves."""
        if not self.history or self.history[-1]["step"] != step:
            self.history.append({"step": step})
        self.history[-1].update(values)
        metrics = {f"learning/{name}": value for name, value in values.items()}
        self.job.emit(Metrics(self.job.stage, step, metrics))

    def validate(self, step: int, model: nn.Module) -> float:
        """Record the validation loss, always of the same rows, and return it."""
        training = self.job.training
        losses = validation_losses(model, self.job.task.loss, self.held_out_batches, training)
        if self.rank == 0:
            self.record(step, losses)
        return losses[VALIDATION_LOSS]

    @cached_property
    def held_out_batches(self) -> list[Batch]:
        """The rows of the validation loss, on the worker's device."""
        task = self.job.task
        batches = held_out_batches(
            self.job.held_out,
            task.fields,
            image_size=task.image_size,
            tokenize=simple_tokenizer(task.context_length),
            batch_size=self.job.training.microbatch_size,
        )
        return [to_device(batch, self.device) for batch in batches]

    @cached_property
    def shown_batch(self) -> Batch:
        """The rows of all previews, on the worker's device."""
        return to_device(self.loader((0,)).read(0)[0], self.device)

    def sample(self, step: int, model: nn.Module) -> None:
        """Publish a preview of the model, always from the same rows."""
        name = SAMPLE_FILE.format(step)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "sample.png"
            if self.job.task.preview(model, self.shown_batch, path) and self.rank == 0:
                with self.dispensable(name):
                    self.job.folder.publish(path, name)
                    self.job.emit(Output(self.job.stage, name))

    def keep_history(self, step: int, values: dict[str, float]) -> None:  # noqa: ARG002
        """Publish the curves beside the checkpoint."""
        if self.rank == 0:
            with self.dispensable(HISTORY_FILE):
                self.job.folder.write_json(HISTORY_FILE, self.history)

    @contextmanager
    def dispensable(self, name: str) -> Iterator[None]:
        """Turn an error of writing a file into a note: training goes on without the file."""
        try:
            yield
        except StoreWriteError as error:
            self.notice(f"{name} could not be written; training goes on without it. {error}")

    def note_rollback(self, rollback: Rollback) -> None:
        """Show the user a rollback, with the samples of the refused step."""
        self.job.emit(Note(self.job.stage, str(rollback)))

    def notice(self, message: str) -> None:
        """Show the user a message of the training loop."""
        self.job.emit(Note(self.job.stage, message))

    def publish(self, model: nn.Module, result: TrainingResult) -> None:
        """Write the averaged weights and the summary of the training."""
        if result.weights_of_step != result.step:
            self.notice(
                f"publishes the averaged weights of step {result.weights_of_step}, which have the "
                "least validation loss"
            )
        with tempfile.TemporaryDirectory() as scratch:
            self.job.task.save(model, result.ema_weights, Path(scratch))
            for path in sorted(Path(scratch).iterdir()):
                self.job.folder.publish(path, path.name)
        self.job.folder.write_json(HISTORY_FILE, self.history)  # the last time, it may have failed
        last = next((e["loss"] for e in reversed(self.history) if "loss" in e), result.loss)
        summary = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": result.step,
            "final_loss": last if last == last else None,  # JSON has no NaN
            "skipped_steps": list(result.skipped_steps),
            "steps_per_s": _steps_per_s(self.history),
            "peak_bytes": _peak_bytes(self.device),
        }
        self.job.folder.write_bytes(TRAINING_FILE, json.dumps(summary).encode())


def _read_history(job: TrainingJob) -> list[dict[str, float]]:
    """The curves so far: of this training, or of the shorter one that it continues."""
    history: list[dict[str, float]] = []
    if job.folder.exists(HISTORY_FILE):
        history = job.folder.read_json(HISTORY_FILE)
    elif job.start is not None and job.start.exists(HISTORY_FILE):
        history = job.start.read_json(HISTORY_FILE)
        for entry in history:  # goodput does not count the time between the two trainings
            entry.pop("unix_time", None)
    return history


def goodput(history: Sequence[Mapping[str, float]]) -> float | None:
    """The share of the time since the first log entry that was spent on steps that were kept.

    The rest are repeated steps, restarts, and pauses between runs. At most 1, because a step's time
    and an entry's are read at different moments. None before the second log entry.
    """
    entries = [entry for entry in history if "unix_time" in entry]
    if len(entries) < 2:
        return None
    useful_s = sum((b["step"] - a["step"]) * b["step_time_s"] for a, b in pairwise(entries))
    wall_s = entries[-1]["unix_time"] - entries[0]["unix_time"]
    return min(1.0, useful_s / wall_s) if wall_s > 0 else None


def _steps_per_s(history: Sequence[Mapping[str, float]]) -> float | None:
    """Of the median log entry; interruptions do not count."""
    times_s = [entry["step_time_s"] for entry in history if "step_time_s" in entry]
    return 1 / statistics.median(times_s) if times_s else None


def _peak_bytes(device: torch.device) -> int:
    """The most memory so far: of the GPU, or of the process if the device is a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
