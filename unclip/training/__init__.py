"""One training loop for every model, in plain torch."""

from unclip.training.checkpoints import Checkpoints, LocalCheckpoints, read_state, write_state
from unclip.training.config import TrainingConfig
from unclip.training.ema import Ema
from unclip.training.health import Rollback, TrainingDiverged
from unclip.training.lanes import Batch, Batches, Loss, lanes_of, seed_lane
from unclip.training.loop import TrainingResult, train
from unclip.training.optimizer import adamw, learning_rate

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
    "lanes_of",
    "learning_rate",
    "read_state",
    "seed_lane",
    "train",
    "write_state",
]
