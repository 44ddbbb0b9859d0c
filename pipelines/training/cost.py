"""What a step of a training costs, from its settings: no data is read, and no weights are made."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from pipelines.core.resources import Resources
from unclip.clip.config import ClipArchitecture
from unclip.kinds import spec_of
from unclip.training.config import TrainingConfig
from unclip.training.logical_ranks import Loss
from unclip.training.meta_step import Recomputed, StepCost, measure_step, meta_batch
from unclip.training.parallel import Parallel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CostedTask:
    """A model, its loss, and the shape of each field of a row that the loss reads."""

    build: Callable[[], nn.Module]
    loss: Loss[Any]
    shapes: Callable[[], Mapping[str, tuple[int, ...]]]

    @classmethod
    def of_model(cls, model: Any) -> "CostedTask":
        """A model of the cascade, by its config."""
        spec = spec_of(model)
        shapes = partial(_shapes, model, spec.batch_fields)
        return cls(partial(spec.network, model), spec.loss, shapes)

    @classmethod
    def of_clip(cls, sizes: ClipArchitecture) -> "CostedTask":
        """A CLIP of these sizes."""
        from unclip.clip.stand_in import ClipStandIn, stand_in_loss

        side = sizes.image_size
        shapes = {"pixels": (3, side, side), "tokens": (sizes.text_context_length,)}
        return cls(partial(ClipStandIn, sizes), stand_in_loss, lambda: shapes)

    def microbatch(
        self, rows: int, *, device_type: str, precision: str, recomputed: Recomputed, sharded: bool
    ) -> tuple[StepCost, int]:
        """The cost of a microbatch, and the bytes of its inputs."""
        batch = meta_batch(self.shapes(), rows)
        step = measure_step(
            self.build,
            self.loss,
            batch,
            device_type=device_type,
            precision=precision,
            checkpoint_activations=recomputed,
            sharded=sharded,
        )
        return step, sum(t.nbytes for t in batch.values() if isinstance(t, Tensor))


def step_flops(
    task: CostedTask, *, training: TrainingConfig, parallel: Parallel, resources: Resources
) -> int | None:
    """FLOPs of a step on GPUs, of all workers; None if the loss cannot be computed without data."""
    try:
        cost, _ = task.microbatch(
            training.microbatch_size,
            device_type="cuda",
            precision=training.precision,
            recomputed=parallel.checkpoint_activations,
            sharded=parallel.shares_weights(resources.workers),
        )
    except Exception:  # a user's own loss may need data
        log.info("the FLOPs of a step are not known, so neither is the utilisation", exc_info=True)
        return None
    return cost.flops * training.logical_ranks


def utilisation(
    step_flops: int, steps_per_s: float, *, gpus: float, peak_flops_per_s: float
) -> float:
    """The share of the GPUs' peak FLOP/s that a training reaches. gpus: of all workers."""
    return step_flops * steps_per_s / (gpus * peak_flops_per_s)


def _shapes(model: Any, fields: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    return {field: _shape(model, field) for field in fields}


def _shape(model: Any, field: str) -> tuple[int, ...]:
    if field == "pixels":
        return 3, model.image_size, model.image_size
    if field == "tokens":
        return (model.text_encoder.context_length,)
    if field in ("image_embeds", "text_embeds"):
        return (model.embed_dim,)
    return ()
