"""The description of a training, which the driver sends to its workers.

Trainings differ in how the model is built and saved, in the loss, and in the columns that the loss
needs. A `TrainingTask` specifies these.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from pipelines.core.errors import first_line
from pipelines.core.events import Emit
from pipelines.core.folder import Folder
from pipelines.core.resources import GIB, Resources
from pipelines.data.loader_memory import LoaderConfig, LoaderMemory
from pipelines.data.order import OrderConfig
from pipelines.data.shard_reader import ShardFiles
from pipelines.training.cost import CostedTask, step_flops
from unclip.config import ConfigError
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
        """The model of `build` on the meta device, for a worker that gets its part from rank 0."""
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
    peak_flops_per_s: float | None = None  # of a GPU; None if not known
    step_flops: int | None = None  # of all workers; None if not known

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

    def with_flops(self, task: CostedTask, peak_flops_per_s: float | None) -> "TrainingJob":
        """The job with what its curve of utilisation needs, if the peak of its GPUs is known."""
        if peak_flops_per_s is None or not self.resources.gpus:
            return self
        flops = step_flops(
            task, training=self.training, parallel=self.parallel, resources=self.resources
        )
        return replace(self, peak_flops_per_s=peak_flops_per_s, step_flops=flops)

    def check(self) -> None:
        """Raise `ConfigError` if the loaders need more memory than `loader_gib`, or if weights are
        shared and the model cannot be built without values.
        """
        logical_ranks = math.ceil(self.training.logical_ranks / self.resources.fewest)
        memory = LoaderMemory.of(self.shards, self.loader, logical_ranks=logical_ranks)
        memory.check(self.stage)
        if self.parallel.shares_weights(self.resources.workers):
            self._check_empty()

    def _check_empty(self) -> None:
        try:
            self.task.build_empty()
        except Exception as error:  # a user's own constructor may do anything
            raise ConfigError(
                f"{self.stage}: the model cannot be built without values ({first_line(error)}), "
                "as all workers but one do that share its weights. Let its constructor read no "
                "values of tensors, and register tensors as buffers; or leave "
                f"run.training.{self.stage}.shard_workers at 1"
            ) from error
