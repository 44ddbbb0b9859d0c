"""The training loop.

A step is forward and backward over this rank's logical ranks, an average of the gradients over all
logical ranks, a look at the health of loss and gradient, and only then the update. Nothing that a
step does depends on earlier random draws or on the number of workers, so a run that is resumed at
any step, or with other workers, takes the same steps up to the order of summation.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unclip.training.checkpoints import Checkpoints
from unclip.training.config import TrainingConfig
from unclip.training.logical_ranks import Batch, Batches, Loss, Model
from unclip.training.loss_spike import Rollback
from unclip.training.meter import Meter
from unclip.training.state import Run, Workers

log = logging.getLogger(__name__)

OnValues = Callable[[int, dict[str, float]], None]  # (steps taken, values by name)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Where training ended."""

    step: int
    finished: bool  # False: `stop` asked for an early end; the next call goes on from here
    loss: float  # of the last log entry; NaN where this call took no step
    ema_weights: dict[str, Tensor]  # a state dict for the model, on the CPU
    skipped_steps: tuple[int, ...]
    rollbacks: tuple[Rollback, ...]  # of this call


def train(
    model: Model,
    loss: Loss[Model],
    batches: Batches,
    config: TrainingConfig,
    *,
    checkpoints: Checkpoints,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    on_log: OnValues | None = None,
    on_sample: Callable[[int, nn.Module], None] | None = None,
    on_checkpoint: OnValues | None = None,
    on_rollback: Callable[[Rollback], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> TrainingResult:
    """Train `model` in place until `config.steps`, from the latest checkpoint where there is one.

    With more than one worker, torch's default process group must be initialised. `on_log`,
    `on_sample` (given the model with averaged weights, in evaluation mode) and `on_rollback` are
    called on rank 0; `on_checkpoint` on every rank, after rank 0 has saved, with the values that
    were logged last. `stop` is asked before each step; when any worker says so, that step is the
    last. Raises ConfigError for workers or a checkpoint that do not fit the configuration, and
    TrainingDiverged when more than `config.max_rollbacks` rollbacks lead to one checkpoint.
    """
    workers = Workers(rank=rank, world_size=world_size, device=device)
    run = Run(model, loss, config, checkpoints, workers)
    meter = Meter(batch_size=config.batch_size)
    leads = rank == 0

    def tell() -> None:
        """Log, sample and save where the present step is due."""
        if _is_due(run.step, config.log_every_steps):
            values = meter.flush()
            if on_log and leads and values:  # none where all steps so far were skipped
                on_log(run.step, values)
        if on_sample and leads and _is_due(run.step, config.sample_every_steps):
            with run.ema.applied() as averaged:
                on_sample(run.step, averaged)
        if _is_due(run.step, config.checkpoint_every_steps):
            save()

    def save() -> None:
        run.save()
        if on_checkpoint:
            on_checkpoint(run.step, meter.latest)

    run.restore()
    rollbacks: list[Rollback] = []
    stopped = False
    while run.step < config.steps and not stopped:
        refusal, stopped = _go(run, batches, meter, tell, stop)
        if refusal is not None:
            rollbacks.append(refusal)
            if leads:
                log.warning("training: %s", refusal)
            if on_rollback and leads:
                on_rollback(refusal)
    if run.step != run.saved_step:
        save()
    return TrainingResult(
        step=run.step,
        finished=run.step >= config.steps,
        loss=meter.flush().get("loss", float("nan")),
        ema_weights=run.ema.weights(),
        skipped_steps=tuple(sorted(run.skipped)),
        rollbacks=tuple(rollbacks),
    )


def _go(
    run: Run,
    batches: Batches,
    meter: Meter,
    tell: Callable[[], None],
    stop: Callable[[], bool] | None,
) -> tuple[Rollback | None, bool]:
    """Take steps until the end, a stop or a rollback: (the rollback, whether to stop)."""
    source = batches(run.step, run.logical_ranks)
    meter.reset()
    stopped = False
    try:
        while run.step < run.config.steps and not stopped:
            with meter.waiting():
                microbatches = next(source)
            if run.step in run.skipped:
                run.skip_step()
            else:
                refusal, stopped = _step(run, microbatches, meter, stop)
                if refusal is not None:
                    return refusal, False
            tell()
    finally:
        _close(source)
    return None, stopped


def _step(
    run: Run, batches: Sequence[Batch], meter: Meter, stop: Callable[[], bool] | None
) -> tuple[Rollback | None, bool]:
    """Take one step, or refuse it: (the rollback, whether to stop)."""
    found = run.gradients(batches, stop=stop is not None and stop())
    if reason := run.health.loss_spike(found.loss, found.grad_norm):
        return run.roll_back(reason, found, batches), False
    rate = run.update(found.loss)
    meter.add(loss=found.loss, grad_norm=found.grad_norm, learning_rate=rate)
    return None, found.stop


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _close(source: Iterator[Sequence[Batch]]) -> None:
    """Let a generator end its threads now, not when it is collected."""
    close = getattr(source, "close", None)
    if close is not None:
        close()
