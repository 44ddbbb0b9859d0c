"""The training loop that every model shares, in plain torch."""

from unclip.training.batches import as_float, to_device
from unclip.training.checkpoint_files import CheckpointFiles, LocalFiles
from unclip.training.checkpoints import Checkpoints, Keep, LocalCheckpoints
from unclip.training.config import TrainingConfig
from unclip.training.ema import Ema
from unclip.training.hangs import WorkerHangsError
from unclip.training.logical_ranks import Batch, Batches, Loss, logical_ranks_of, seed_logical_rank
from unclip.training.loop import TrainingResult, train
from unclip.training.loss_spike import Rollback, TrainingDiverged
from unclip.training.optimizer import adamw, learning_rate
from unclip.training.parallel import Parallel
from unclip.training.validation import VALIDATION_LOSS, validation_losses

__all__ = [
    "VALIDATION_LOSS",
    "Batch",
    "Batches",
    "CheckpointFiles",
    "Checkpoints",
    "Ema",
    "Keep",
    "LocalCheckpoints",
    "LocalFiles",
    "Loss",
    "Parallel",
    "Rollback",
    "TrainingConfig",
    "TrainingDiverged",
    "TrainingResult",
    "WorkerHangsError",
    "adamw",
    "as_float",
    "learning_rate",
    "logical_ranks_of",
    "seed_logical_rank",
    "to_device",
    "train",
    "validation_losses",
]
