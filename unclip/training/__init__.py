"""The training loop that every model shares, in plain torch."""

from unclip.training.batches import as_float, to_device
from unclip.training.checkpoints import Checkpoints, LocalCheckpoints, read_state, write_state
from unclip.training.config import TrainingConfig
from unclip.training.ema import Ema
from unclip.training.logical_ranks import Batch, Batches, Loss, logical_ranks_of, seed_logical_rank
from unclip.training.loop import TrainingResult, train
from unclip.training.loss_spike import Rollback, TrainingDiverged
from unclip.training.optimizer import adamw, learning_rate
from unclip.training.validation import validation_losses

__all__ = [
    "Batch",
    "Batches",
    "Checkpoints",
    "Ema",
    "LocalCheckpoints",
    "Loss",
    "Rollback",
    "TrainingConfig",
    "TrainingDiverged",
    "TrainingResult",
    "adamw",
    "as_float",
    "learning_rate",
    "logical_ranks_of",
    "read_state",
    "seed_logical_rank",
    "to_device",
    "train",
    "validation_losses",
    "write_state",
]
