"""The state of a training run on one worker, and the operations of a step."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unclip.config import ConfigError
from unclip.training.batches import to_device
from unclip.training.checkpoints import Checkpoints, OnNotice, State
from unclip.training.config import TrainingConfig
from unclip.training.ema import Ema
from unclip.training.logical_ranks import Batch, Loss, logical_ranks_of, seed_logical_rank
from unclip.training.loss_spike import (
    LossSpikeDetector,
    RankReport,
    Rollback,
    TrainingDiverged,
    suspect_keys,
)
from unclip.training.meter import Meter
from unclip.training.optimizer import adamw, learning_rate

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Rank and device of this worker; several workers share torch's default process group."""

    rank: int
    world_size: int
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """The result of a backward pass; `loss`, `grad_norm` and `stop` are equal on every rank."""

    loss: float
    grad_norm: float
    stop: bool
    rank_losses: list[Tensor]  # scalars, one for each logical rank of this worker


class _Objective(nn.Module):
    """The loss as a module, so that DDP wraps its forward, whichever methods the loss calls."""

    def __init__(self, model: nn.Module, loss: Loss[Any]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        return self.loss(self.model, batch, generator)


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
        on_notice: OnNotice,
    ) -> None:
        self.config = config
        self.workers = workers
        self.logical_ranks = logical_ranks_of(
            workers.rank, world_size=workers.world_size, logical_ranks=config.logical_ranks
        )
        self.model = model.to(workers.device).train()
        objective = _Objective(model, loss)
        # Buffers are not broadcast: the ones that differ are not trained.
        self.ddp = (
            DistributedDataParallel(objective, broadcast_buffers=False)
            if workers.world_size > 1
            else None
        )
        self.objective: nn.Module = self.ddp or objective
        self.optimizer = adamw(model, config)
        self.ema = Ema(model, decay=config.ema_decay)  # after DDP has broadcast the weights
        self.checkpoints = checkpoints
        self.on_notice = on_notice
        self.step = 0
        self.saved_step = -1
        self.skipped: set[int] = set()
        self.spikes = LossSpikeDetector(max_loss_ratio=config.max_loss_ratio)
        self.meter = Meter(batch_size=config.batch_size)

    def restore(self) -> None:
        """Load the latest checkpoint; if there is none, save one that training can roll back to."""
        found = self.checkpoints.latest(self.on_notice)
        self._require_equal_on_all_ranks(found[0] if found else -1)
        if found is None:
            self.save()
        else:
            self._load(*found)
            log.info("training resumes from the checkpoint of step %d", self.step)

    def save(self) -> None:
        """Save a checkpoint of the current state."""
        if self.workers.rank == 0:
            self.checkpoints.save(self.step, self._state())
            log.debug("saved the checkpoint of step %d", self.step)
        self.saved_step = self.step

    def gradients(self, batches: Sequence[Batch], *, stop: bool) -> Gradients:
        """Compute the step's gradients, averaged over all logical ranks, and clip them."""
        self.optimizer.zero_grad()
        rank_losses = [
            self._forward_backward(logical_rank, batch, last=logical_rank == self.logical_ranks[-1])
            for logical_rank, batch in zip(self.logical_ranks, batches, strict=True)
        ]
        shared = torch.stack([torch.stack(rank_losses).mean(), rank_losses[0].new_tensor(stop)])
        if self.ddp:
            dist.all_reduce(shared)
        loss, stops = (shared / self.workers.world_size).tolist()
        grad_norm = self._clip().item()
        return Gradients(loss=loss, grad_norm=grad_norm, stop=stops > 0, rank_losses=rank_losses)

    def update(self, gradients: Gradients) -> None:
        """Update the weights with the current gradients."""
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.ema.update()
        self.spikes.losses.append(gradients.loss)
        self.meter.add(loss=gradients.loss, grad_norm=gradients.grad_norm, learning_rate=rate)
        self.step += 1

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
                RankReport(
                    logical_rank=logical_rank, loss=loss.item(), keys=list(batch.get("keys", ()))
                )
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

    def _forward_backward(self, logical_rank: int, batch: Batch, *, last: bool) -> Tensor:
        """Run forward and backward for one logical rank; gradients accumulate. Returns the loss."""
        device = self.workers.device
        generator = seed_logical_rank(self.config.seed, self.step, logical_rank, device=device)
        moved = to_device(batch, device)
        bfloat16 = self.config.precision == "bfloat16"
        with self.ddp.no_sync() if self.ddp and not last else nullcontext():
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
                loss: Tensor = self.objective(moved, generator)
            (loss / len(self.logical_ranks)).backward()  # type: ignore[no-untyped-call]
        return loss.detach().float()

    def _clip(self) -> Tensor:
        """Clip the gradients to `max_grad_norm`; returns their norm before clipping."""
        limit = self.config.max_grad_norm
        return nn.utils.clip_grad_norm_(
            self.model.parameters(), float("inf") if limit is None else limit
        )

    def _state(self) -> State:
        return {
            "config": self.config.digest(),
            "step": self.step,
            "skipped_steps": sorted(self.skipped),
            "losses": list(self.spikes.losses),
            "meter": self.meter.state_dict(),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _load(self, step: int, state: State) -> None:
        if state["config"] != self.config.digest():
            raise ConfigError(
                f"training: the checkpoint of step {step} was made with other settings (digest "
                f"{state['config']}, now {self.config.digest()}), so going on from it would mix "
                "two runs; restore the settings, or keep the new run's checkpoints elsewhere"
            )
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.spikes.losses.clear()
        self.spikes.losses.extend(state["losses"])
        self.meter.load_state_dict(state["meter"])
        self.skipped = set(state["skipped_steps"])
        self.step = self.saved_step = step

    def _require_equal_on_all_ranks(self, step: int) -> None:
        """Refuse to train if the workers found different checkpoints."""
        if not self.ddp:
            return
        found = [0] * self.workers.world_size
        dist.all_gather_object(found, step)
        if len(set(found)) > 1:
            raise ConfigError(
                f"training: workers found different latest checkpoints (steps {found}, -1 for "
                "none); keep checkpoints where every worker reads the same files"
            )

    def _gather_from_all_ranks(self, reports: list[RankReport]) -> list[RankReport]:
        if not self.ddp:
            return reports
        gathered: list[list[RankReport]] = [[]] * self.workers.world_size
        dist.all_gather_object(gathered, reports)
        return [report for of_rank in gathered for report in of_rank]
