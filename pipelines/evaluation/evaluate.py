"""The work of the stage evaluate: gather rows, generate shard by shard, measure everything."""

import logging
from typing import Any, NamedTuple

from pipelines.artifacts import MODEL_FILE
from pipelines.artifacts.schema import reference
from pipelines.core.stage import Context
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.contact_sheets import write_contact_sheets
from pipelines.evaluation.generate import GenerationWorker
from pipelines.evaluation.inputs import Sources, Weights
from pipelines.evaluation.interpolation import write_interpolation
from pipelines.evaluation.judging import Judges, ReferenceWorker
from pipelines.evaluation.metrics.metric import Measurement
from pipelines.evaluation.metrics.suite import Measured, Subjects, measure
from pipelines.evaluation.nearest import write_nearest
from pipelines.evaluation.rows import Names, gather
from unclip.checkpoint import check_file

log = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    """The results of an evaluation other than its shards."""

    measurements: list[Measurement]
    notes: list[str]  # on what could not be measured
    pictures: list[str]  # names of files


def evaluate(ctx: Context, sources: Sources, weights: Weights, config: EvaluateConfig) -> Evaluated:
    """Generate samples for both splits and measure them; every step runs in a worker."""
    judges = Judges(config.judges)
    ctx.call(check_judges, judges)  # before images are drawn
    names: Names = ctx.call(gather, sources, config, ctx.folder)
    width = weights.clip.width
    ctx.map_shards(
        ReferenceWorker(judges, final_size(weights), width, ctx.folder),
        {name: name for name in names.reference},
        schema=reference(width, tuple(config.judges)),
        unit="shards of real images",
    )
    generation = GenerationWorker(weights, config, ctx.folder)
    ctx.map_shards(
        generation,
        {name: name for name in names.samples},
        schema=generation.schema,
        unit="shards of captions",
    )
    subjects = Subjects(tuple(weights.priors), tuple(config.judges))
    measured: Measured = ctx.call(measure, ctx.folder, names, subjects)
    sheets = ctx.call(write_contact_sheets, ctx.folder, names.samples)
    transitions = ctx.call(write_interpolation, generation, names.samples)
    ctx.call(write_nearest, ctx.folder, names.samples, sources)
    return Evaluated(measured.measurements, measured.notes, [*sheets, transitions])


def check_judges(judges: Judges) -> None:
    """Raise `ConfigError` if the weights of a judge are damaged or of another network."""
    log.info("The judges are %s", ", ".join(judges.loaded))


def final_size(weights: Weights) -> int:
    """The side of the images that the cascade draws, in pixels; reads only the file's header."""
    last = [weights.decoder, *weights.upsamplers.values()][-1]
    with last.folder.open(MODEL_FILE) as file:
        config: Any = check_file(file, where=last.folder.file(MODEL_FILE))
    return int(config.image_size)
