"""A function on several workers at once, under Ray Train: the engine's side of every training.

The function keeps its progress itself: it finds its last checkpoint in the stage's folder, so a new
driver, a new worker group and a new machine resume in the same way.
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

from pipelines.core.capacity import describe_capacity, nodes, places
from pipelines.core.cluster import in_thread
from pipelines.core.errors import PipelineError, WorkLostError, first_line
from pipelines.core.events import Emit, Note
from pipelines.core.placement import PublishController, release_left_behind, waits_for_room
from pipelines.core.shards import PoolSettings
from pipelines.core.store import Folder

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0  # of one attempt of Ray Train to start its workers
NOTE_EVERY_S = 60.0  # while workers wait for room
SCRATCH = ".ray_train"  # Ray Train's own records; removed when the stage is done

# Ray's memory monitor names itself; its other messages list running out of memory as one guess.
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
    """Run `function(config)` on every worker; start all of them again when a process dies.

    Raises the function's own error at once, and `WorkLostError` after `settings.retries` losses.
    """
    training = _Training(function, config, stage, folder, emit, settings)
    for attempt in range(settings.retries + 1):
        log.info("stage %s: starts its workers, attempt %d", stage, attempt + 1)
        lost = training.attempt()
        if lost is None:
            return
        release_left_behind(folder)
        if attempt == settings.retries:
            raise WorkLostError(
                f"Stage {stage}: its workers died {attempt + 1} times, last with: {lost}. Its "
                "checkpoints are kept: run again to go on from the last one. If memory ran out, "
                f"give each worker more with run.resources.{stage}.memory_gib."
            )
        emit(Note(stage, f"{lost}; all workers start again from the last checkpoint"))


@dataclass(frozen=True)
class _Training:
    """One stage's function and what its attempts share."""

    function: Callable[[Mapping[str, Any]], None]
    config: Mapping[str, Any]
    stage: str
    folder: Folder
    emit: Emit
    settings: PoolSettings

    def attempt(self) -> str | None:
        """Run until the function has returned (None), or say which process was lost."""
        try:
            self._fit_with_notes()
        except WorkerGroupError as error:
            raised = raised_by_function(list(error.worker_failures.values()))
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
        filesystem, path = fsspec.core.url_to_fs(self.folder.file(SCRATCH))
        return TorchTrainer(
            self.function,
            train_loop_config=dict(self.config),
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker=resources.per_worker(),
            ),
            run_config=RunConfig(
                name=self.stage,
                storage_path=path,
                storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)),
                callbacks=[PublishController(self.folder)],  # type: ignore[list-item]
                failure_config=FailureConfig(  # type: ignore[call-arg]  # Train V2's
                    controller_failure_limit=max(0, math.ceil(wait_s / START_TIMEOUT_S) - 1)
                ),
            ),
        )

    def _no_room(self) -> WorkLostError:
        resources = self.settings.resources
        hint = f"Ask for less with run.resources.{self.stage}, add nodes, or raise run.wait_s."
        if places(resources, nodes()) >= resources.workers:
            hint = (
                "The cluster is large enough, but other work holds what is not free: wait for it "
                "and run again, or raise run.wait_s."
            )
        return WorkLostError(
            f"Stage {self.stage} could not start {resources.workers} workers with "
            f"{resources.per_worker()} each within {self.settings.wait_s:.0f} s. "
            f"{describe_capacity()} {hint}"
        )


def raised_by_function(failures: Sequence[BaseException]) -> BaseException | None:
    """The error that the function itself raised, and would again; None where a process is gone.

    A worker whose peer is gone, or has raised, fails too: with an error of their connection.
    """
    if not failures or any(isinstance(e, RayError | RayTrainError) for e in failures):
        return None
    return min(failures, key=_is_of_connection)


def _is_of_connection(error: BaseException) -> bool:
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
