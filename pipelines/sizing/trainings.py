"""What each training of a plan needs: memory on a device, FLOPs, hours, money, checkpoints.

Everything follows from the configuration: no data is read, and no weights are made.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from pipelines.config.devices import HOUR_S, DeviceSettings
from pipelines.config.sections import RunSection
from pipelines.core.errors import PipelineError, first_line
from pipelines.core.resources import GIB, Resources
from pipelines.core.stage import Artifact, Stage
from pipelines.stages.clip import TrainClip
from pipelines.stages.train import TrainModel
from pipelines.training.cost import CostedTask
from unclip.training.config import TrainingConfig
from unclip.training.estimate import Memory, estimate_memory
from unclip.training.meta_step import Recomputed, StepCost
from unclip.training.parallel import Parallel
from unclip.training.remedies import Layout, smallest_change

log = logging.getLogger(__name__)

STATE = 16  # bytes of a checkpoint for each parameter: weights, averages, two of Adam
# (rows of a microbatch, checkpoint_activations, whether weights are sharded) -> its cost, and the
# bytes of its inputs
Cost = Callable[[int, Recomputed, bool], tuple[StepCost, int]]


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """What one training needs."""

    stage: str
    parameters: int
    workers: int
    gpus: float  # of all workers
    parallel: Parallel
    precision: str
    memory: Memory  # of each worker
    usable_bytes: int | None  # of its device; None if the device is not known
    step_flops: int  # of all workers, with what is computed again
    hours: float | None  # None if the device is not known
    cost: float | None  # None without a price
    checkpoint_bytes: int  # of all that are kept
    change: str = ""  # the smallest one that fits, in words; "" if the training fits

    @property
    def fits(self) -> bool:
        """Whether the memory suffices, as far as it is known."""
        return self.usable_bytes is None or self.memory.total <= self.usable_bytes

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all GPUs."""
        return None if self.hours is None else self.hours * self.gpus

    def as_json(self) -> dict[str, Any]:
        """All figures as plain values."""
        memory = {**asdict(self.memory), "total": self.memory.total}
        return {**asdict(self), "memory": memory, "gpu_hours": self.gpu_hours, "fits": self.fits}


@dataclass(frozen=True)
class Sizes:
    """What some trainings need."""

    trainings: tuple[TrainingSize, ...]
    unknown: Mapping[str, str]  # the stages that cannot be sized, with reasons


def sizes_of(stages: Iterable[Stage[Artifact]], run: RunSection) -> Sizes:
    """What each training among the stages needs."""
    found, unknown = [], {}
    for stage in stages:
        if not isinstance(stage, TrainModel | TrainClip) or not _training(stage).steps:
            continue
        try:
            found.append(_size(stage, run))
        except Exception as error:  # the loss of a user's own kind may need data
            log.debug("%s cannot be sized", stage.name, exc_info=True)
            unknown[stage.name] = f"{type(error).__name__}: {first_line(error)}"
    return Sizes(tuple(found), unknown)


def check_sizes(sizes: Sizes, device: DeviceSettings | None) -> None:
    """Raise `PipelineError` if a training does not fit, with the smallest change that would."""
    lines = [
        f"{size.stage} needs {size.memory.total / GIB:.1f} GiB on each GPU, and a {device.gpu} has "
        f"{size.usable_bytes / GIB:.1f} GiB for it; {size.change}"
        for size in sizes.trainings
        if device and size.usable_bytes and not size.fits
    ]
    if lines:
        raise PipelineError(f"Trainings that do not fit: {'. '.join(lines)}.")


def _size(stage: TrainModel | TrainClip, run: RunSection) -> TrainingSize:
    training = _training(stage)
    resources = run.resources.get(stage.name, Resources())
    parallel = run.training_of(stage.name)
    layout = Layout(parallel=parallel, logical_ranks=training.logical_ranks)
    device = run.device if resources.gpus else None
    device_type, task = "cuda" if resources.gpus else "cpu", _task(stage)

    @cache
    def cost(rows: int, recomputed: Recomputed, sharded: bool) -> tuple[StepCost, int]:
        return task.microbatch(
            rows,
            device_type=device_type,
            precision=training.precision,
            recomputed=recomputed,
            sharded=sharded,
        )

    step, memory = _memory(cost, layout, training, resources.workers)
    usable = int(device.usable_bytes * min(1, resources.gpus)) if device else None
    seconds = _step_s(step, layout, resources, device, training.precision)
    hours = None if seconds is None else seconds * training.steps / HOUR_S
    gpus = resources.workers * resources.gpus
    price = device.price_per_hour if device else None
    return TrainingSize(
        stage=stage.name,
        parameters=step.parameters,
        workers=resources.workers,
        gpus=gpus,
        parallel=parallel,
        precision=training.precision,
        memory=memory,
        usable_bytes=usable,
        step_flops=step.flops * training.logical_ranks,
        hours=hours,
        cost=None if price is None or hours is None else hours * gpus * price,
        checkpoint_bytes=STATE * step.parameters * training.keep_checkpoints,
        change=""
        if usable is None or memory.total <= usable
        else _change(stage.name, cost, layout, training, resources, usable),
    )


def _change(
    name: str,
    cost: Cost,
    layout: Layout,
    training: TrainingConfig,
    resources: Resources,
    usable: int,
) -> str:
    """The smallest change that fits, in words."""

    def fits(candidate: Layout) -> Memory | None:
        memory = _memory(cost, candidate, training, resources.workers)[1]
        return memory if memory.total <= usable else None

    found = smallest_change(
        layout, workers=resources.workers, batch_size=training.batch_size, fits=fits
    )
    if found is None:
        return (
            "no sharding over its workers is enough, and neither are microbatches of one row; give "
            f"it more workers in run.resources.{name}, or larger GPUs"
        )
    changed, memory = found
    settings = _settings(layout.parallel, changed.parallel)
    words = [f"run.training.{name}={{{settings}}}"] if settings else []
    if changed.logical_ranks != layout.logical_ranks:
        words.append(f"logical_ranks={changed.logical_ranks} of {name}")
    return f"set {' and '.join(words)}, which needs {memory.total / GIB:.1f} GiB"


def _settings(before: Parallel, after: Parallel) -> str:
    """The settings of the new layout that are not at their defaults, as YAML."""
    words = []
    if after.shard_workers > 1:
        words.append(f"shard_workers: {after.shard_workers}")
    if after.checkpoint_activations:
        words.append("checkpoint_activations: true")
    return ", ".join(words) if after != before else ""


def _memory(
    cost: Cost, layout: Layout, training: TrainingConfig, workers: int
) -> tuple[StepCost, Memory]:
    rows = training.batch_size // layout.logical_ranks
    shards = layout.parallel.group_size(workers)
    step, batch_bytes = cost(rows, layout.parallel.checkpoint_activations, shards > 1)
    return step, estimate_memory(step, workers=workers, shards=shards, batch_bytes=batch_bytes)


def _step_s(
    step: StepCost,
    layout: Layout,
    resources: Resources,
    device: DeviceSettings | None,
    precision: str,
) -> float | None:
    """Seconds of a step: its microbatches in turn on the worker that has most of them."""
    if device is None:
        return None
    in_turn = math.ceil(layout.logical_ranks / resources.workers)
    return in_turn * step.flops / (device.flops_per_s(precision) * resources.gpus)


def _task(stage: TrainModel | TrainClip) -> CostedTask:
    if isinstance(stage, TrainModel):
        return CostedTask.of_model(stage.model)
    return CostedTask.of_clip(stage.config.architecture)


def _training(stage: TrainModel | TrainClip) -> TrainingConfig:
    return stage.training if isinstance(stage, TrainModel) else stage.config.training
