"""The description of a training, which the driver sends to its workers.

Trainings differ in how the model is built and saved, in the loss, and in the columns that the loss
needs. A `TrainingTask` specifies these.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from pipelines.core.events import Emit
from pipelines.core.folder import Folder
from pipelines.core.resources import GIB, Resources
from pipelines.data.loader_memory import LoaderConfig, LoaderMemory
from pipelines.data.order import OrderConfig
from pipelines.data.shard_reader import ShardFiles
from unclip.training import Batch, Loss, Parallel, TrainingConfig


class TrainingTask(Protocol):
    """A model to train and its loss; picklable."""

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def image_size(self) -> int | None: ...

    @property
    def context_length(self) -> int: ...

    def build(self) -> nn.Module:
        """The model before its first step."""
        ...

    def build_empty(self) -> nn.Module:
        """The same on the meta device, for a worker that gets its weights from rank 0."""
        ...

    @property
    def loss(self) -> Loss[Any]: ...

    def save(self, model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write the trained model's files into a local folder.

        weights: the state dict to write; the model's own weights may be sharded.
        """
        ...

    def preview(self, model: nn.Module, batch: Batch, path: Path) -> bool:
        """Write an image that shows what the model has learned; False if there is none.

        If the weights are sharded, every rank calls this, because all compute a part.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Everything that a worker needs."""

    stage: str
    task: TrainingTask
    training: TrainingConfig
    shuffle_rows: int
    resources: Resources
    shards: tuple[ShardFiles, ...]
    folder: Folder
    emit: Emit
    held_out: tuple[ShardFiles, ...] = ()  # shards with held-out rows, for the validation loss
    parallel: Parallel = field(default_factory=Parallel)
    start: Folder | None = None  # of a shorter training that this one continues
    peak_s: float | None = None  # of one worker for a step at its GPUs' peak; None if not known

    @property
    def loader(self) -> LoaderConfig:
        """The settings of each worker's loader."""
        order = OrderConfig(
            seed=self.training.seed,
            logical_ranks=self.training.logical_ranks,
            batch_size=self.training.batch_size,
            shuffle_rows=self.shuffle_rows,
        )
        return LoaderConfig(
            order=order,
            fields=self.task.fields,
            image_size=self.task.image_size,
            max_bytes=int(self.resources.loader_gib * GIB),
            threads=max(1, int(self.resources.cpus)),
        )

    def check_memory(self) -> None:
        """Raise `ConfigError` if the loaders need more memory than `loader_gib`."""
        logical_ranks = math.ceil(self.training.logical_ranks / self.resources.fewest)
        memory = LoaderMemory.of(self.shards, self.loader, logical_ranks=logical_ranks)
        memory.check(self.stage)
