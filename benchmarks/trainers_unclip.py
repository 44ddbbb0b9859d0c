"""The training worker of a run, in this process and on a CPU, for `benchmarks.trainers`."""

# B batch, L tokens

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import with_unclip
from benchmarks.contest import random_inputs
from benchmarks.loop import ignore
from benchmarks.training_rows import Case, Tick, word_ids
from pipelines.core.folder import Folder
from pipelines.core.resources import Resources
from pipelines.training.tasks import ModelTask
from pipelines.training.training_job import TrainingJob
from pipelines.training.worker import TrainingWorker
from unclip.kinds import training_loss
from unclip.training import Batch, Loss, TrainingConfig

SHUFFLE_ROWS = 2048  # as in the demo


@dataclass(frozen=True, kw_only=True)
class TimedTask(ModelTask):
    """A model of the benchmark; its loss begins with a tick of the clock."""

    case: Case
    tick: Tick

    @property
    def loss(self) -> Loss[Any]:
        """The objective of the model's kind, on a small vocabulary."""

        def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
            self.tick()
            if "tokens" in batch:
                batch = {**batch, "tokens": word_ids(batch["tokens"], self.case)}
            return training_loss(model, batch, generator)

        return loss


def train(case: Case, tick: Tick) -> int:
    """Train our model in the worker of a run; returns the number of parameters."""
    model: Any = getattr(with_unclip, case.model)(case.sizes, random_inputs(case.sizes)).model
    with tempfile.TemporaryDirectory(dir=case.folder) as scratch:
        job = TrainingJob(
            stage="trainers",
            task=TimedTask(model.config, preview_seed=0, case=case, tick=tick),
            training=_settings(case),
            shuffle_rows=SHUFFLE_ROWS,
            resources=Resources(cpus=1),
            shards=case.shards,
            folder=Folder(scratch),
            emit=ignore,
        )
        TrainingWorker(job, rank=0, world_size=1, device=torch.device("cpu")).run()
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _settings(case: Case) -> TrainingConfig:
    """The demo's settings, and a log entry and a checkpoint in the middle."""
    return TrainingConfig(
        steps=case.steps,
        batch_size=case.sizes.batch,
        logical_ranks=1,
        learning_rate=1e-4,
        lr_schedule="cosine",
        warmup_steps=0,
        weight_decay=0.01,
        adam_beta1=0.9,
        adam_beta2=0.99,
        adam_eps=1e-8,
        max_grad_norm=1.0,
        ema_decay=0.9999,
        precision="float32",
        log_every_steps=case.save_at,
        checkpoint_every_steps=case.save_at,
        keep_checkpoints=2,
        sample_every_steps=None,
        seed=0,
        max_loss_ratio=1e6,  # single losses of a batch this small look like spikes
    )
