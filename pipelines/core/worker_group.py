"""Runs a function on several workers at once, under Ray Train: the engine's part of a training.

The function saves its own progress and finds its last checkpoint in the stage's folder. So a new
driver, a new worker group, other nodes and another number of workers all resume in the same way.
"""

import logging
import math
import os
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any

import fsspec
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.exceptions import RayError
from ray.train import (
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import RayTrainError, WorkerGroupStartupTimeoutError
from ray.train.v2.api.callback import RayTrainCallback

from pipelines.core import spares
from pipelines.core.capacity import describe_capacity, nodes, places
from pipelines.core.cluster import in_thread
from pipelines.core.errors import PipelineError, WorkLostError, first_line
from pipelines.core.events import Emit, Note
from pipelines.core.folder import Folder
from pipelines.core.placement import PublishController, release_left_behind, waits_for_room
from pipelines.core.regroup import RegroupError, all_workers_wanted, workers_now
from pipelines.core.shards import PoolSettings

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0  # of one attempt of Ray Train to start its workers
NOTE_EVERY_S = 60.0  # while workers wait for room
SCRATCH = ".ray_train"  # Ray Train's own records; removed when the stage is done

# Phrases of Ray's memory monitor. Ray's other messages mention memory only as one possible cause.
_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|running low on memory|memory usage threshold")

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
    """Run `function(config)` on every worker; restart all of them when a process dies.

    Restarts after which the function published files, such as a checkpoint, are not counted:
    training goes on as long as it makes progress, however often machines are taken away.

    Raises the function's own error at once. Raises `WorkLostError` when a process dies after
    `settings.retries` restarts without progress, or when the workers do not start within
    `settings.wait_s`.
    """
    training = _Training(function, config, stage, folder, emit, settings)
    with all_workers_wanted(stage, settings.resources):
        training.run()


@dataclass(frozen=True)
class _Training:
    """One stage's function and what its attempts share."""

    function: Callable[[Mapping[str, Any]], None]
    config: Mapping[str, Any]
    stage: str
    folder: Folder
    emit: Emit
    settings: PoolSettings

    def run(self) -> None:
        """Run the training, with as many restarts as it needs and may have."""
        deaths, published = 0, self.published()
        while (lost := self.attempt()) is not None:
            release_left_behind(self.folder)
            before, published = published, self.published()
            deaths = 1 if published != before else deaths + 1
            if deaths > self.settings.retries:
                raise WorkLostError(
                    f"Stage {self.stage}: its workers died {deaths} times without progress, last "
                    f"with: {lost}. Its checkpoints are kept: run again to resume from the last "
                    "one. If memory ran out, give each worker more with "
                    f"run.resources.{self.stage}.memory_gib."
                )
            self.emit(Note(self.stage, f"{lost}; all workers start again from the last checkpoint"))

    def attempt(self) -> str | None:
        """Run the training. Returns None if it succeeded, else a message on the lost process."""
        try:
            self._fit_with_notes()
        except WorkerGroupError as error:
            raised = raised_by_function(list(error.worker_failures.values()))
            if isinstance(raised, RegroupError):
                return _lost(str(raised), error)
            if raised is not None:
                raise _readable(self.stage, raised) from error
            return _lost("a training worker died", error)
        except ControllerError as error:
            if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
                raise self._no_room() from error
            return _lost("Ray Train's controller failed", error)
        except TrainingFailedError as error:
            raise WorkLostError(f"Stage {self.stage}: {first_line(error)}.") from error
        except RayError as error:  # the controller's process is gone, killed or out of memory
            return _lost("Ray Train's controller died", error)
        return None

    def published(self) -> set[str]:
        """Names of the files in the stage's folder, without Ray Train's own records."""
        return {name for name in self.folder.names() if not name.startswith(f"{SCRATCH}/")}

    def _fit_with_notes(self) -> None:
        """Run the training; while its workers wait for room, say so once a minute."""
        fit = in_thread(self._trainer().fit)
        while not wait([fit], timeout=NOTE_EVERY_S).done:
            if waits_for_room(self.folder):
                self.emit(
                    Note(self.stage, f"waits for room for its workers. {describe_capacity()}")
                )
        fit.result()

    def _trainer(self) -> TorchTrainer:
        resources, wait_s = self.settings.resources, self.settings.wait_s
        callbacks: list[RayTrainCallback] = [PublishController(self.folder)]
        environment: dict[str, str] = {}
        if resources.is_elastic:
            callbacks.append(spares.ControllerSpares())
            environment = spares.environment(self.function)
        filesystem, path = fsspec.core.url_to_fs(self.folder.file(SCRATCH))
        return TorchTrainer(
            self.function,
            train_loop_config=dict(self.config),
            scaling_config=ScalingConfig(
                num_workers=workers_now(resources),
                use_gpu=resources.gpus > 0,
                resources_per_worker=resources.per_worker(),
            ),
            run_config=RunConfig(  # type: ignore[call-arg]  # Train V2's
                name=self.stage,
                worker_runtime_env={"env_vars": environment},
                storage_path=path,
                storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)),
                callbacks=callbacks,  # type: ignore[arg-type]
                failure_config=FailureConfig(  # type: ignore[call-arg]  # Train V2's
                    controller_failure_limit=max(0, math.ceil(wait_s / START_TIMEOUT_S) - 1),
                    max_preemption_failures=0,  # `run_worker_group` restarts
                ),
            ),
        )

    def _no_room(self) -> WorkLostError:
        resources = self.settings.resources
        hint = f"Ask for less with run.resources.{self.stage}, add nodes, or raise run.wait_s."
        if places(resources, nodes()) >= resources.fewest:
            hint = (
                "The cluster is large enough, but other work occupies it: run again when that work "
                "has ended, or raise run.wait_s."
            )
        return WorkLostError(
            f"Stage {self.stage} could not start {resources.fewest} workers with "
            f"{resources.per_worker()} each within {self.settings.wait_s:.0f} s. "
            f"{describe_capacity()} {hint}"
        )


def raised_by_function(failures: Sequence[BaseException]) -> BaseException | None:
    """The error that the function raised, and would raise again; None if a process died.

    When one worker raises, its peers fail with connection errors, so any other error is preferred.
    """
    if not failures or any(isinstance(e, RayError | RayTrainError) for e in failures):
        return None
    # Of workers that ask to start again, only some may know why.
    return min(failures, key=lambda error: (_is_connection_error(error), -len(str(error))))


def _is_connection_error(error: BaseException) -> bool:
    return type(error) is RuntimeError or type(error).__module__.startswith("torch.distributed")


def _readable(stage: str, error: BaseException) -> Exception:
    if isinstance(error, PipelineError):
        return error
    return PipelineError(f"Stage {stage}: {type(error).__name__}: {error}")


def _lost(message: str, error: Exception) -> str:
    # The traceback keeps the controller alive, and the controller keeps the placement group.
    traceback.clear_frames(error.__traceback__)
    log.warning("%s: %s", message, error)
    return f"{message} (out of memory)" if _OUT_OF_MEMORY.search(str(error)) else message
