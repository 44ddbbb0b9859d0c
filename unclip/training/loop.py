"""The training loop.

A step runs forward and backward over this rank's logical ranks, averages the gradients over all
logical ranks, checks for a loss spike, and then updates the weights. A step depends neither on
earlier random draws nor on the number of workers. So a run that is resumed at any step, or with
another number of workers, takes the same steps up to the order of summation.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from unclip.config import ConfigError
from unclip.training.batches import close, copied_ahead
from unclip.training.checkpoints import Checkpoints, OnNotice
from unclip.training.config import TrainingConfig
from unclip.training.hangs import named_hangs
from unclip.training.logical_ranks import Batch, Batches, Loss, Model
from unclip.training.loss_spike import Rollback
from unclip.training.parallel import Parallel, Workers
from unclip.training.state import TrainState

log = logging.getLogger(__name__)

OnValues = Callable[[int, dict[str, float]], None]  # (steps taken, values by name)
OnModel = Callable[[int, nn.Module], None]  # (steps taken, model with averaged weights)
OnValidation = Callable[[int, nn.Module], float | None]  # the same; returns the validation loss
OnRollback = Callable[[Rollback], None]
Stop = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The outcome of a call of `train`."""

    step: int
    finished: bool  # False: `stop` ended training early; the next call continues from here
    loss: float  # of the last log entry; before the first entry, the mean loss so far
    ema_weights: dict[str, Tensor]  # a state dict of the model, on the CPU; if sharded, on rank 0
    weights_of_step: int  # below `step` if `config.result` is "best" and an earlier one was better
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
    parallel: Parallel | None = None,
    on_log: OnValues | None = None,
    on_sample: OnModel | None = None,
    on_validation: OnValidation | None = None,
    on_checkpoint: OnValues | None = None,
    on_rollback: OnRollback | None = None,
    on_notice: OnNotice | None = None,
    stop: Stop | None = None,
) -> TrainingResult:
    """Train `model` in place until `config.steps`, from the latest checkpoint if there is one.

    With more than one worker, torch's default process group must be initialised. If `parallel`
    shards the weights, workers other than rank 0 may give the model on the meta device
    (`unclip.meta_device`): rank 0 sends them its values.

    Only rank 0 calls `on_log`, with the values of each log entry; `on_rollback`; and `on_notice`,
    with messages for the user, such as that a checkpoint cannot be read. Rank 0 calls `on_sample`
    and `on_validation` with the averaged model in evaluation mode; if `parallel` shards the
    weights, every rank does, and must call the model in the same way. Every rank calls
    `on_checkpoint` with the last log entry, before the state is saved, so what the callback writes
    is never older than the checkpoint. Every rank calls `stop` in each step; if it returns True on
    any rank, that step is the last.

    `on_validation` returns the validation loss. With `config.result` "best", the weights of the
    result are those of the checkpoint where it is least, and are the last ones if training stopped.

    Log entries and weights do not depend on how often the run is interrupted, and up to the order
    of summation not on the number of workers, at most `config.logical_ranks`. Raises `ConfigError`
    if the number of workers or the checkpoint does not fit the configuration, and
    `TrainingDiverged` after more than `config.max_rollbacks` rollbacks to the same checkpoint.
    """
    workers = Workers(rank=rank, world_size=world_size, device=device)
    if config.result == "best" and on_validation is None:
        raise ConfigError(
            'training: result="best" needs a validation loss, but there are no held-out rows; hold '
            'rows out, or set result="last"'
        )

    def notify(message: str) -> None:
        if workers.is_leader:
            log.warning("training: %s", message)
            if on_notice:
                on_notice(message)

    state = TrainState(model, loss, config, checkpoints, workers, parallel or Parallel(), notify)
    has_model = workers.is_leader or state.is_sharded
    loop = _Loop(
        state,
        batches,
        on_log=on_log if workers.is_leader else None,
        on_sample=on_sample if has_model else None,
        on_validation=on_validation if has_model else None,
        on_checkpoint=on_checkpoint,
        on_rollback=on_rollback if workers.is_leader else None,
        stop=stop,
        has_weights=workers.is_leader or not state.is_sharded,
    )
    return loop.run()


@dataclass
class _Loop:
    """Takes steps, and after each makes the log entry, samples and checkpoint that are due."""

    state: TrainState
    batches: Batches
    on_log: OnValues | None
    on_sample: OnModel | None
    on_validation: OnValidation | None
    on_checkpoint: OnValues | None
    on_rollback: OnRollback | None
    stop: Stop | None
    has_weights: bool  # in the result
    rollbacks: list[Rollback] = field(default_factory=list)
    stopped: bool = False

    def run(self) -> TrainingResult:
        """Train to the last step or until `stop`."""
        state = self.state
        try:
            state.restore()
            while state.step < state.config.steps and not self.stopped:
                if rollback := self._take_steps():
                    self._report(rollback)
            if state.step != state.saved_step:
                self._save()
            state.end_saves()
        except BaseException:
            state.let_save_end()
            raise
        log.info("training ends at step %d of %d", state.step, state.config.steps)
        finished = state.step >= state.config.steps
        is_best = finished and state.config.result == "best"
        weights_of_step = state.load_best_average() if is_best else state.step
        return TrainingResult(
            step=state.step,
            finished=finished,
            weights_of_step=weights_of_step,
            loss=state.meter.latest.get("loss", state.meter.mean_loss),
            ema_weights=state.ema.weights(keep=self.has_weights),
            skipped_steps=tuple(sorted(state.skipped)),
            rollbacks=tuple(self.rollbacks),
        )

    def _take_steps(self) -> Rollback | None:
        """Take steps until the end, a stop or a rollback; returns the rollback, if any."""
        state = self.state
        source = copied_ahead(self.batches(state.step, state.logical_ranks), state.workers.device)
        state.meter.start_clock()
        try:
            while state.step < state.config.steps and not self.stopped:
                with state.meter.waiting():
                    microbatches = next(source)
                if state.step in state.skipped:
                    log.info("step %d is skipped", state.step)
                    state.skip_step()
                elif rollback := self._take_step(microbatches):
                    return rollback
                self._after_step()
        finally:
            close(source)
        return None

    def _take_step(self, microbatches: Sequence[Batch]) -> Rollback | None:
        """Take one step, or roll back if it is a loss spike."""
        stop = self.stop is not None and self.stop()
        with named_hangs(self.state.workers, self.state.step):
            gradients = self.state.gradients(microbatches, stop=stop)
        if reason := self.state.spikes.find_spike(gradients.loss, gradients.grad_norm):
            return self.state.roll_back(reason, gradients, microbatches)
        self.state.update(gradients)
        self.stopped = gradients.stop
        return None

    def _after_step(self) -> None:
        """Make the log entry, the sample and the checkpoint that are due."""
        state, config = self.state, self.state.config
        if _is_due(state.step, config.log_every_steps):
            entry = state.meter.make_entry()
            if entry and (self.on_log or state.is_sharded):  # none if all steps were skipped
                entry = entry | state.health()
            if entry and self.on_log:
                self.on_log(state.step, entry)
        is_last = config.sample_every_steps is not None and state.step == config.steps
        if self.on_sample and (is_last or _is_due(state.step, config.sample_every_steps)):
            state.call_with_average(partial(self.on_sample, state.step))
        is_last = config.result == "best" and state.step == config.steps
        if self.on_validation and (is_last or _is_due(state.step, config.validate_every_steps)):
            validation_loss = state.call_with_average(partial(self.on_validation, state.step))
            state.validated = state.step, validation_loss
        if _is_due(state.step, config.checkpoint_every_steps):
            self._save()

    def _save(self) -> None:
        if self.on_checkpoint:
            self.on_checkpoint(self.state.step, self.state.meter.latest)
        self.state.save()

    def _report(self, rollback: Rollback) -> None:
        self.rollbacks.append(rollback)
        if self.state.workers.is_leader:
            log.warning("training: %s", rollback)
        if self.on_rollback:
            self.on_rollback(rollback)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
