"""The state of a training run on one worker, and the operations of a step."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from unclip.config import ConfigError
from unclip.objectives.row_losses import collected_rows
from unclip.training.batches import to_device
from unclip.training.by_timestep import PARTS, sums_by_part, train_timesteps
from unclip.training.checkpoints import Checkpoints, Found, OnNotice
from unclip.training.compiled import not_compiled
from unclip.training.config import TrainingConfig
from unclip.training.ema import Ema
from unclip.training.gradient_norm import clip
from unclip.training.gradients import clear_gradients, gradient_sum
from unclip.training.health import health
from unclip.training.logical_ranks import Batch, Loss, logical_ranks_of, seed_logical_rank
from unclip.training.loss_spike import (
    LossSpikeDetector,
    RankReport,
    Rollback,
    TrainingDiverged,
    suspect_keys,
)
from unclip.training.meter import Meter
from unclip.training.optimizer import adamw, learning_rate, optimizer_tensors
from unclip.training.parallel import Parallel, Workers, wrap
from unclip.training.sharding import is_sharded

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """The result of a backward pass; `loss`, `grad_norm` and `stop` are equal on every rank."""

    loss: float
    grad_norm: float
    stop: bool
    rank_losses: list[float]  # one for each logical rank of this worker
    by_timestep: np.ndarray  # (2, K), as of `sums_by_part`


class TrainState:
    """Weights, averaged weights, optimiser, step, skipped steps and meter.

    A checkpoint holds all of these, so a resumed run takes the same steps and makes the same log
    entries as an uninterrupted one.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss[Any],
        config: TrainingConfig,
        checkpoints: Checkpoints,
        workers: Workers,
        parallel: Parallel,
        on_notice: OnNotice,
    ) -> None:
        self.config = config
        self.workers = workers
        self.logical_ranks = logical_ranks_of(
            workers.rank, world_size=workers.world_size, logical_ranks=config.logical_ranks
        )
        self.model = model.train()
        self.loss = loss
        self.objective = wrap(model, parallel, workers)
        self.fixed = parallel.summation == "fixed"
        self.sum_gradients = gradient_sum(self.objective, parallel, workers, config.logical_ranks)
        self.optimizer = adamw(model, config, fused=not self.fixed)
        self.ema = Ema(model, decay=config.ema_decay)  # after DDP has broadcast the weights
        self.checkpoints = checkpoints
        self.on_notice = on_notice
        self.step = 0
        self.saved_step = -1
        self.save_failed = False  # whether the last save failed
        self.validated: tuple[int, float | None] = (-1, None)  # step and loss of the last time
        self.skipped: set[int] = set()
        self.spikes = LossSpikeDetector(max_loss_ratio=config.max_loss_ratio)
        self.timesteps = train_timesteps(model)
        self.meter = Meter(batch_size=config.batch_size, timesteps=self.timesteps)

    def restore(self) -> None:
        """Load the latest checkpoint; if there is none, save one that training can roll back to."""
        self._end_save()
        found = self.checkpoints.latest(self.on_notice)
        if found is None:
            self.save()
        else:
            self._load(found)
            log.info("training resumes from the checkpoint of step %d", self.step)

    def save(self) -> None:
        """Save a checkpoint of the current state, in the background.

        If the last save failed, the user gets a notice, because the store may be back. Raises the
        error if two saves in a row failed.
        """
        self._end_save()
        self.checkpoints.save(self.step, self._values(), self._tensors())
        self.saved_step = self.step

    def end_saves(self) -> None:
        """Wait until the last checkpoint is complete; it is saved again if it fails."""
        if not self._end_save():
            self.save()
            self.checkpoints.wait()

    def let_save_end(self) -> None:
        """After an error, wait for a save that is under way, unless other workers take part."""
        if self.workers.world_size == 1:
            with suppress(Exception):
                self.checkpoints.wait()

    @property
    def is_sharded(self) -> bool:
        """Whether this worker holds only a part of the weights."""
        return is_sharded(self.objective)

    def gradients(self, batches: Sequence[Batch], *, stop: bool) -> Gradients:
        """Compute the step's gradients, averaged over all logical ranks, and clip them."""
        clear_gradients(self.objective)
        count, device = self.config.logical_ranks, self.workers.device
        found = torch.zeros(count + 1, 1 + 2 * PARTS, device=device)  # losses, and by timestep
        found[-1] = stop

        def compute(logical_rank: int, batch: Batch) -> Tensor:
            with collected_rows() as reports:
                loss = self._forward(logical_rank, batch)
            found[logical_rank, 0] = loss.detach()
            found[logical_rank, 1:] = sums_by_part(reports, self.timesteps, device=device).flatten()
            return loss

        microbatches = zip(self.logical_ranks, batches, strict=True)
        self.sum_gradients([partial(compute, rank, batch) for rank, batch in microbatches])
        if self.workers.world_size > 1:
            dist.all_reduce(found)  # each loss is added to zeros: its bits do not change
        grad_norm = clip(list(self.model.parameters()), self.config.max_grad_norm, fixed=self.fixed)
        # One copy to the host, for which a GPU has to wait.
        means = torch.stack([found[:-1, 0].mean(), grad_norm])
        values = torch.cat([found[:, 0], means, found[:-1, 1:].sum(0)]).tolist()
        (*losses, stops, loss, norm), sums = values[: count + 3], values[count + 3 :]
        return Gradients(
            loss=loss,
            grad_norm=norm,
            stop=stops > 0,
            rank_losses=[losses[rank] for rank in self.logical_ranks],
            by_timestep=np.reshape(sums, (2, PARTS)),
        )

    def call_with_average(self, call: Callable[[nn.Module], T]) -> T:
        """Call with the averaged model in evaluation mode; if it is sharded, on every worker."""
        with self.ema.applied(), torch.no_grad(), not_compiled(self.model):
            result: T = self.objective(call)
        return result

    def load_best_average(self) -> int:
        """Read the averaged weights with the least validation loss; returns their step."""
        found = self.checkpoints.best()
        if found is None:  # none was a number
            return self.step
        self.checkpoints.load(found, _named("ema", self.ema.tensors()))
        return found.step

    def update(self, gradients: Gradients) -> None:
        """Update the weights with the current gradients."""
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.ema.update()
        self.spikes.losses.append(gradients.loss)
        self.meter.add(
            loss=gradients.loss,
            grad_norm=gradients.grad_norm,
            learning_rate=rate,
            by_timestep=gradients.by_timestep,
        )
        self.step += 1

    def health(self) -> dict[str, float]:
        """Values of the last step by part of the model; if weights are sharded, on every worker."""
        return health(self.model, self.optimizer, self.ema.parts)

    def skip_step(self) -> None:
        """Advance past a step without taking it."""
        self.step += 1

    def roll_back(self, reason: str, found: Gradients, batches: Sequence[Batch]) -> Rollback:
        """Return to the last checkpoint; the current step is skipped from then on.

        Raises `TrainingDiverged` if more than `max_rollbacks` steps after the checkpoint would be
        skipped.
        """
        reports = self._gather_from_all_ranks(
            [
                RankReport(logical_rank=logical_rank, loss=loss, keys=list(batch.get("keys", ())))
                for logical_rank, loss, batch in zip(
                    self.logical_ranks, found.rank_losses, batches, strict=True
                )
            ]
        )
        skipped = self.skipped | {self.step}
        rollback = Rollback(
            step=self.step, reason=reason, back_to=self.saved_step, keys=suspect_keys(reports)
        )
        if sum(step >= self.saved_step for step in skipped) > self.config.max_rollbacks:
            raise TrainingDiverged(
                f"training: {rollback}. That is more than max_rollbacks="
                f"{self.config.max_rollbacks} since step {self.saved_step}: lower learning_rate="
                f"{self.config.learning_rate}, lengthen warmup_steps={self.config.warmup_steps}, "
                "set max_grad_norm, or look at these samples"
            )
        self.restore()
        self.skipped |= skipped
        return replace(rollback, back_to=self.step)  # an older checkpoint if the last is damaged

    def _end_save(self) -> bool:
        """Wait for the save that is under way, if any; returns False if it failed."""
        try:
            if self.checkpoints.wait():
                self.save_failed = False
        except Exception as error:  # of any kind of storage
            if self.save_failed:
                raise
            self.save_failed = True
            self.on_notice(
                f"the checkpoint of step {self.saved_step} could not be written; training goes on "
                f"and writes the next one. {error}"
            )
            return False
        return True

    def _forward(self, logical_rank: int, batch: Batch) -> Tensor:
        """The loss of one logical rank."""
        device = self.workers.device
        generator = seed_logical_rank(self.config.seed, self.step, logical_rank, device=device)
        moved = to_device(batch, device)
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            loss: Tensor = self.objective(lambda model: self.loss(model, moved, generator))
        return loss.float()

    def _values(self) -> dict[str, Any]:
        """The part of a checkpoint that is no tensor; equal on every rank."""
        return {
            "config": self.config.digest(),
            "validation_loss": self._validation_loss(),
            "skipped_steps": sorted(self.skipped),
            "losses": list(self.spikes.losses),
            "meter": self.meter.state_dict(),
            "ema_updates": self.ema.updates,
        }

    def _validation_loss(self) -> float | None:
        """The validation loss of the current weights, if it was measured and is finite."""
        step, loss = self.validated
        return loss if step == self.step and loss is not None and math.isfinite(loss) else None

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint; not copied, so reading into them restores the state."""
        return {
            **_named("model", self.model.state_dict()),
            **_named("ema", self.ema.tensors()),
            **_named("optimizer", optimizer_tensors(self.model, self.optimizer)),
        }

    def _load(self, found: Found) -> None:
        values = found.manifest.values
        if values["config"] != self.config.digest():
            raise ConfigError(
                f"training: the checkpoint of step {found.step} was made with other settings "
                f"(digest {values['config']}, now {self.config.digest()}), so going on from it "
                "would mix two runs; restore the settings, or keep the new run's checkpoints "
                "elsewhere"
            )
        self.checkpoints.load(found, self._tensors())
        self.ema.updates = values["ema_updates"]
        self.spikes.losses.clear()
        self.spikes.losses.extend(values["losses"])
        self.meter.load_state_dict(values["meter"])
        self.skipped = set(values["skipped_steps"])
        self.step = self.saved_step = found.step

    def _gather_from_all_ranks(self, reports: list[RankReport]) -> list[RankReport]:
        if self.workers.world_size == 1:
            return reports
        gathered: list[list[RankReport]] = [[]] * self.workers.world_size
        dist.all_gather_object(gathered, reports)
        return [report for of_rank in gathered for report in of_rank]


def _named(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their names in a checkpoint."""
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}
