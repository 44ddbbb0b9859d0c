"""One worker of any training: the loop of `unclip.training`, fed from shards, heard by the driver.

Every model is described by a frozen config; what differs between them is how one is built, its
loss, what it needs of a row, and how it is written, which `TrainingTask` names.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from pipelines.core.events import Emit, Metrics, Note, Output, Progress
from pipelines.core.store import Folder
from pipelines.data.loader import LoaderConfig, TrainingLoader
from pipelines.data.order import OrderConfig
from pipelines.data.shard_reader import ShardFiles
from pipelines.stages.checkpoints import StoreCheckpoints
from unclip.training import Batch, Loss, Rollback, TrainingConfig, TrainingResult, train

HISTORY = "history.json"  # what was logged, for the report's curves
SUMMARY = "training.json"  # what the stage's artifact is made from


class TrainingTask(Protocol):
    """What is trained; picklable."""

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def image_size(self) -> int | None: ...

    @property
    def context_length(self) -> int: ...

    def build(self) -> nn.Module:
        """The untrained model."""
        ...

    @property
    def loss(self) -> Loss[Any]: ...

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained model's files into a local folder."""
        ...

    def preview(self, model: nn.Module, batch: Batch, path: Path) -> bool:
        """Write a picture that shows how far the model is; False where it makes none."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that a worker needs to know."""

    stage: str
    task: TrainingTask
    training: TrainingConfig
    shuffle_shards: int
    shards: tuple[ShardFiles, ...]
    folder: Folder
    emit: Emit


def train_worker(config: Mapping[str, Any]) -> None:
    """The function that Ray Train runs on every worker."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    worker = TrainingWorker(
        config["job"],
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )
    worker.run()


@dataclass
class TrainingWorker:
    """One rank of a training job; rank 0 tells the driver and writes what is made."""

    job: TrainingJob
    rank: int
    world_size: int
    device: torch.device
    history: list[dict[str, float]] = field(default_factory=list)

    def run(self) -> None:
        """Train to the end and publish the averaged weights."""
        job = self.job
        torch.manual_seed(job.training.seed)  # the untrained weights
        model = job.task.build()
        if self.rank == 0 and job.folder.exists(HISTORY):
            self.history = job.folder.read_json(HISTORY)
        result = train(
            model,
            job.task.loss,
            self.batches,
            job.training,
            checkpoints=StoreCheckpoints(job.folder, job.training.keep_checkpoints),
            device=self.device,
            rank=self.rank,
            world_size=self.world_size,
            on_log=self.log,
            on_sample=self.sample,
            on_checkpoint=self.keep_history,
            on_rollback=self.tell_of_rollback,
            on_notice=self.notice,
        )
        if self.rank == 0:
            self.publish(model, result)

    def batches(self, start_step: int, logical_ranks: tuple[int, ...]) -> Iterator[Sequence[Batch]]:
        """The microbatches of this rank from a step on."""
        if self.rank == 0 and start_step:
            self.job.emit(Note(self.job.stage, f"resumes at step {start_step}"))
        self.history = [entry for entry in self.history if entry["step"] <= start_step]
        return self.loader(logical_ranks).batches(start_step)

    def loader(self, logical_ranks: Sequence[int]) -> TrainingLoader:
        """The loader of some logical ranks."""
        import open_clip

        job, training = self.job, self.job.training
        order = OrderConfig(
            seed=training.seed,
            logical_ranks=training.logical_ranks,
            batch_size=training.batch_size,
            shuffle_shards=job.shuffle_shards,
        )
        task = job.task
        settings = LoaderConfig(order=order, fields=task.fields, image_size=task.image_size)
        tokenize = open_clip.SimpleTokenizer(context_length=task.context_length)
        return TrainingLoader(
            job.shards, settings, own_logical_ranks=logical_ranks, tokenize=tokenize
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Tell the driver how it goes."""
        self.history.append({"step": step, **values})
        stage, steps = self.job.stage, self.job.training.steps
        self.job.emit(Metrics(stage, step, {f"learning/{name}": v for name, v in values.items()}))
        self.job.emit(Progress(stage, step, steps, "steps", f"loss {values['loss']:.4f}"))

    def sample(self, step: int, model: nn.Module) -> None:
        """Publish a picture of what the model makes by now, always from the same rows."""
        batch = next(self.loader((0,)).read(0))[0]
        name = f"samples/step-{step:08d}.png"
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "sample.png"
            moved = {k: v.to(self.device) if hasattr(v, "to") else v for k, v in batch.items()}
            if self.job.task.preview(model, moved, path):
                self.job.folder.publish(path, name)
                self.job.emit(Output(self.job.stage, name))

    def keep_history(self, step: int, values: dict[str, float]) -> None:  # noqa: ARG002
        """Publish the curves beside the checkpoint."""
        if self.rank == 0:
            self.job.folder.write_json(HISTORY, self.history)

    def tell_of_rollback(self, rollback: Rollback) -> None:
        """A person should look at these samples."""
        self.job.emit(Note(self.job.stage, str(rollback)))

    def notice(self, message: str) -> None:
        """Show the user a message of the training loop."""
        self.job.emit(Note(self.job.stage, message))

    def publish(self, model: nn.Module, result: TrainingResult) -> None:
        """Write the averaged weights and what there is to say of them."""
        model.load_state_dict(result.ema_weights)
        with tempfile.TemporaryDirectory() as scratch:
            self.job.task.save(model, Path(scratch))
            for path in sorted(Path(scratch).iterdir()):
                self.job.folder.publish(path, path.name)
        last = self.history[-1]["loss"] if self.history else result.loss
        summary = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": result.step,
            "final_loss": last if last == last else None,  # NaN is no JSON
            "skipped_steps": list(result.skipped_steps),
        }
        self.job.folder.write_bytes(SUMMARY, json.dumps(summary).encode())
