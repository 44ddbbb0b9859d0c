"""The work of the stage study: gather captions, draw every variant, measure."""

import logging
from collections.abc import Mapping, Sequence

from pipelines.artifacts import Evaluation, TrainedModel
from pipelines.artifacts.schema import features_of
from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.core.stage import Context
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.inputs import Weights
from pipelines.evaluation.rows import batches, shard_name, write_inputs
from pipelines.evaluation.samples import HELD_OUT, first_samples, shards_in
from pipelines.study.config import MIN_CAPTIONS, StudyConfig
from pipelines.study.draw import DrawWorker
from pipelines.study.measure import Record, measure
from pipelines.study.scenes import SCHEMA, SceneWorker, probed, scene_records
from pipelines.study.variants import Models, standard_of, variants_of

log = logging.getLogger(__name__)

CAPTIONS = "captions"  # kind of shards
COLUMNS = ("caption", "image_embeds", "image_norm", "text_embeds", "original_thumbnail")


def run_study(
    ctx: Context,
    evaluation: Evaluation,
    weights: Weights,
    baselines: Mapping[str, TrainedModel],
    *,
    evaluate: EvaluateConfig,
    config: StudyConfig,
) -> dict[str, list[Record]]:
    """Draw and measure every variant, and the scenes: the content of `STUDY_FILE`."""
    judges = tuple(evaluate.judges)
    names: list[str] = ctx.call(gather, evaluation, config, judges, ctx.folder)
    models = Models(tuple(weights.priors), tuple(baselines))
    variants = variants_of(config, evaluate.sampling, models)
    worker = DrawWorker(weights, evaluate, ctx.folder, baselines, variants, evaluation.folder)
    ctx.map_shards(
        worker, {name: name for name in names}, schema=worker.schema, unit="shards of captions"
    )
    scenes: list[Record] = []
    if config.scenes:
        ctx.map_shards(
            SceneWorker(worker, config.batch_size),
            probed(config.scenes),
            schema=SCHEMA,
            unit="kinds of scenes",
        )
        scenes = ctx.call(scene_records, ctx.folder, config.scenes)
    log.info("Measuring %d variants", len(variants))
    records: list[Record] = ctx.call(
        measure, ctx.folder, names, variants, judges, standard_of(models)
    )
    return {"variants": records, "scenes": scenes}


def gather(
    evaluation: Evaluation, config: StudyConfig, judges: Sequence[str], folder: Folder
) -> list[str]:
    """Write an input file for each shard of captions; returns the names of the shards.

    Raises `PipelineError` if too few captions were evaluated.
    """
    columns = [*COLUMNS, *(features_of("original", judge) for judge in judges)]
    shards = shards_in(evaluation.folder)
    rows = first_samples(evaluation.folder, shards, columns, config.captions)[HELD_OUT]
    if len(rows) < MIN_CAPTIONS:
        raise PipelineError(
            f"Stage study: {len(rows)} held-out captions were evaluated, but comparing needs "
            f"{MIN_CAPTIONS}. Raise evaluate.held_out_samples, or start from more pairs."
        )
    names = []
    for number, batch in enumerate(batches(rows, config.batch_size)):
        names.append(shard_name(number, CAPTIONS))
        write_inputs(folder, names[-1], batch)
    return names
