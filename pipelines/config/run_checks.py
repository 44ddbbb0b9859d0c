"""Checks of section `run` against the stages of the pipeline."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unclip.config import ConfigError
from unclip.extension import did_you_mean

if TYPE_CHECKING:
    from pipelines.config.sections import PipelineConfig


def check_resources(config: "PipelineConfig") -> None:
    """Raise `ConfigError` if `run` names unknown stages, or workers that a training cannot use."""
    _check_names("run.resources", config.run.resources, config.stage_names)
    trainings = config.trainings
    _check_names("run.training", config.run.training, tuple(trainings))
    for name, training in trainings.items():
        resources = config.run.resources.get(name)
        workers = resources.workers if resources else 1
        if workers > training.logical_ranks:
            raise ConfigError(
                f"run.resources.{name}.workers={workers}, but {name}.logical_ranks="
                f"{training.logical_ranks}; a worker needs a logical rank of its own, so give at "
                f"most {training.logical_ranks}"
            )
        sharing = config.run.training_of(name).shard_workers
        if sharing > workers:
            raise ConfigError(
                f"run.training.{name}.shard_workers={sharing}, but run.resources.{name}.workers="
                f"{workers}; give at most the number of workers"
            )
    if config.run.training_of("clip").shard_workers > 1:
        raise ConfigError(
            "run.training.clip.shard_workers must be 1: the weights of a CLIP are not sharded"
        )


def _check_names(where: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{where} names {name!r}, which is not a stage"
                f"{' that trains' if where == 'run.training' else ''}"
                f"{did_you_mean(name, known) or ';'} the stages are {', '.join(known)}"
            )
