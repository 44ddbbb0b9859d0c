"""What a step of a training costs, from its settings: no data is read, and no weights are made."""

import logging
from collections.abc import Callable, Iterator, Mapping
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
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of_model(cls, model: Any) -> "CostedTask":
        """A model of the cascade, by its config."""
        spec = spec_of(model)
        shapes = dict(_shapes(model, spec.batch_fields))
        return cls(partial(spec.network, model), spec.loss, shapes)

    @classmethod
    def of_clip(cls, sizes: ClipArchitecture) -> "CostedTask":
        """A CLIP of these sizes."""
        from unclip.clip.stand_in import ClipStandIn, stand_in_loss

        side = sizes.image_size
        shapes = {"pixels": (3, side, side), "tokens": (sizes.text_context_length,)}
        return cls(partial(ClipStandIn, sizes), stand_in_loss, shapes)

    def microbatch(
        self, rows: int, *, device_type: str, precision: str, recomputed: Recomputed, sharded: bool
    ) -> tuple[StepCost, int]:
        """The cost of a microbatch, and the bytes of its inputs."""
        batch = meta_batch(self.shapes, rows)
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


def peak_s(
    task: CostedTask,
    training: TrainingConfig,
    parallel: Parallel,
    resources: Resources,
    peak_flops_per_s: float | None,
) -> float | None:
    """Seconds that one worker would take for a whole step at the peak FLOP/s of its GPUs.

    None if the peak is not known, without GPUs, or if the loss cannot be computed without data.
    """
    if peak_flops_per_s is None or not resources.gpus:
        return None
    try:
        cost, _ = task.microbatch(
            training.microbatch_size,
            device_type="cuda",
            precision=training.precision,
            recomputed=parallel.checkpoint_activations,
            sharded=parallel.group_size(resources.workers) > 1,
        )
    except Exception:  # of a user's own kind
        log.info("the FLOPs of a step are not known, so neither is the utilisation", exc_info=True)
        return None
    return cost.flops * training.logical_ranks / (resources.gpus * peak_flops_per_s)


def _shapes(model: Any, fields: tuple[str, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for field in fields:
        if field == "pixels":
            yield field, (3, model.image_size, model.image_size)
        elif field == "tokens":
            yield field, (model.text_encoder.context_length,)
        elif field in ("image_embeds", "text_embeds"):
            yield field, (model.embed_dim,)
        else:
            yield field, ()
