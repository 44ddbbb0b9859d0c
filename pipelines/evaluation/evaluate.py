"""The work of the stage evaluate: gather rows, generate shard by shard, measure everything."""

import logging
from typing import NamedTuple

from pipelines.artifacts.schema import samples
from pipelines.core.stage import Context
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.contact_sheets import write_contact_sheets
from pipelines.evaluation.generate import GenerationWorker
from pipelines.evaluation.inputs import Sources, Weights
from pipelines.evaluation.metrics.metric import Measurement
from pipelines.evaluation.metrics.suite import measure
from pipelines.evaluation.rows import gather

log = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    """The results of an evaluation other than its shards."""

    measurements: list[Measurement]
    contact_sheets: list[str]  # names of files


def evaluate(ctx: Context, sources: Sources, weights: Weights, config: EvaluateConfig) -> Evaluated:
    """Generate samples for both splits and measure them; every step runs in a worker."""
    names: list[str] = ctx.call(gather, sources, config, ctx.folder)
    ctx.map_shards(
        GenerationWorker(weights, config, ctx.folder),
        {name: name for name in names},
        schema=samples(weights.clip.width, tuple(weights.other_priors)),
        unit="shards of captions",
    )
    measurements: list[Measurement] = ctx.call(measure, ctx.folder, names, tuple(weights.priors))
    better = sum(measurement.comparison == "better" for measurement in measurements)
    log.info("%d of %d metrics are better than their baseline", better, len(measurements))
    return Evaluated(measurements, ctx.call(write_contact_sheets, ctx.folder, names))
