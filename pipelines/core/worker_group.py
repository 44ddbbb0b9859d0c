"""A function on several workers at once, under Ray Train: the engine's side of every training.

Progress is the function's own business: it finds its last checkpoint in the stage's folder, so that
a new driver, a new worker group and a new machine resume in the same way.
"""

import math
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fsspec
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pipelines.core.capacity import describe_capacity
from pipelines.core.errors import PipelineError, WorkLostError
from pipelines.core.events import Emit, Note
from pipelines.core.shards import PoolSettings
from pipelines.core.store import Folder

START_TIMEOUT_S = 60.0  # of one attempt of Ray Train to start its workers
SCRATCH = ".ray_train"  # Ray Train's own records; removed when the stage is done

os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT_S))
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")


def run_worker_group(
    function: Callable[[Mapping[str, Any]], None],
    config: Mapping[str, Any],
    *,
    stage: str,
    folder: Folder,
    emit: Emit,
    settings: PoolSettings,
) -> None:
    """Run `function(config)` on every worker; start all of them again when one dies."""
    from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    for attempt in range(settings.retries + 1):
        try:
            _fit(function, config, stage=stage, folder=folder, settings=settings)
            return
        except WorkerGroupError as error:
            raised = raised_by_function(list(error.worker_failures.values()))
            if raised is not None:
                raise _readable(stage, raised) from error
            _give_up_after(attempt, stage, settings, error)
        except ControllerError as error:
            if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
                raise _no_room(stage, settings) from error
            _give_up_after(attempt, stage, settings, error)
        except TrainingFailedError as error:
            raise WorkLostError(f"Stage {stage}: {str(error).splitlines()[0]}") from error
        emit(Note(stage, "a training worker died; all start again from the last checkpoint"))


def _fit(
    function: Callable[[Mapping[str, Any]], None],
    config: Mapping[str, Any],
    *,
    stage: str,
    folder: Folder,
    settings: PoolSettings,
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = settings.resources
    filesystem, path = fsspec.core.url_to_fs(folder.file(SCRATCH))
    TorchTrainer(
        function,
        train_loop_config=dict(config),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker=resources.per_worker(),
        ),
        run_config=RunConfig(
            name=stage,
            storage_path=path,
            storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)),
            failure_config=FailureConfig(  # type: ignore[call-arg]  # Train V2's, chosen at import
                controller_failure_limit=max(0, math.ceil(settings.wait_s / START_TIMEOUT_S) - 1)
            ),
        ),
    ).fit()


def raised_by_function(failures: Sequence[BaseException]) -> BaseException | None:
    """The error that the function itself raised, and would again; None where a process is gone.

    A worker whose peer is gone, or has raised, fails too: with an error of their connection.
    """
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError

    if not failures or any(isinstance(e, RayError | RayTrainError) for e in failures):
        return None
    return min(failures, key=_is_of_connection)


def _is_of_connection(error: BaseException) -> bool:
    return type(error) is RuntimeError or type(error).__module__.startswith("torch.distributed")


def _readable(stage: str, error: BaseException) -> Exception:
    if isinstance(error, PipelineError):
        return error
    return WorkLostError(f"Stage {stage}: {type(error).__name__}: {error}")


def _give_up_after(attempt: int, stage: str, settings: PoolSettings, error: Exception) -> None:
    # The frames hold Ray Train's controller, and it the workers' places, for as long as they live.
    traceback.clear_frames(error.__traceback__)
    if attempt == settings.retries:
        raise WorkLostError(
            f"Stage {stage}: its workers died {attempt + 1} times, last with: "
            f"{str(error).splitlines()[-1]} Its checkpoints are kept: run again to go on from the "
            "last one."
        ) from error


def _no_room(stage: str, settings: PoolSettings) -> WorkLostError:
    resources = settings.resources
    return WorkLostError(
        f"Stage {stage} could not start {resources.workers} workers with {resources.per_worker()} "
        f"each within {settings.wait_s:.0f} s. {describe_capacity()} Ask for less with "
        f"run.resources.{stage}, add nodes, or raise run.wait_s."
    )
