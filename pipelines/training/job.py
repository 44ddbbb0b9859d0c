"""The driver's part of a training: describes the job to the workers, and reads the result."""

import logging
from typing import TYPE_CHECKING

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    TrainedModel,
)
from pipelines.core.events import Note
from pipelines.core.stage import Context
from pipelines.data.shard_reader import held_out_files, training_files
from pipelines.training.calibration import calibrate
from pipelines.training.cost import CostedTask
from pipelines.training.initial_weights import take_weights
from pipelines.training.tasks import ModelTask
from pipelines.training.training_job import TrainingJob
from pipelines.training.worker import train_worker
from unclip.config import Config, ConfigError

if TYPE_CHECKING:
    from pipelines.stages.train import TrainModel

log = logging.getLogger(__name__)


def run_training(stage: "TrainModel", ctx: Context) -> TrainedModel:
    """Train to the end; if `steps` is 0, publish the initial weights unchanged."""
    embeddings = ctx.load(stage.embeddings)
    check_width(stage.model, embeddings)
    if stage.initial and not stage.training.steps:
        parameters = ctx.call(take_weights, stage.initial, ctx.folder)
        return TrainedModel(ctx.folder, parameters, 0, None, stage.model.tag)
    job = training_job(stage, ctx, embeddings)
    job = job.with_flops(CostedTask.of_model(stage.model), stage.peak_flops_per_s)
    job.check()
    ctx.train(train_worker, {"job": job})
    return TrainedModel.read(ctx.folder, stage.model.tag)


def training_job(stage: "TrainModel", ctx: Context, embeddings: EmbeddingShards) -> TrainingJob:
    """Everything that a worker needs; sent to all workers."""
    start = stage.start_folder(ctx)
    if start:
        ctx.emit(Note(stage.name, f"goes on from the shorter training in {start.url}"))
    read = (ctx.load(stage.pairs), embeddings, ctx.load(stage.selection))
    return TrainingJob(
        stage=stage.name,
        task=task_of(stage, ctx, embeddings),
        training=stage.training,
        shuffle_rows=stage.loader.shuffle_rows,
        resources=ctx.resources,
        shards=training_files(*read),
        held_out=held_out_files(*read),
        folder=ctx.folder,
        emit=ctx.emit,
        parallel=stage.parallel,
        start=start,
    )


def task_of(stage: "TrainModel", ctx: Context, embeddings: EmbeddingShards) -> ModelTask:
    """The model before its first step: initial weights, calibration, the CLIP's text tower."""
    calibration = None
    if stage.pca is not None:
        pca, selection = ctx.load(stage.pca), ctx.load(stage.selection)
        calibration = ctx.call(calibrate, pca, embeddings, selection, stage.model)
    clip: ClipWeights | None = ctx.load(stage.clip) if stage.clip else None
    return ModelTask(
        stage.model,
        preview_seed=stage.training.seed,
        initial=stage.initial,
        calibration=calibration,
        clip=clip,
    )


def check_width(model: Config, embeddings: EmbeddingShards) -> None:
    """Raise `ConfigError` if the model's `embed_dim` is not the width of the CLIP's embeddings."""
    wanted = getattr(model, "embed_dim", None)
    if wanted is not None and wanted != embeddings.width:
        raise ConfigError(
            f"{type(model).__name__}.embed_dim={wanted}, but the embeddings of "
            f"{embeddings.clip_name} are {embeddings.width} wide; set it to {embeddings.width}"
        )
