"""Checkpoints of a training: written by all workers in the background, read by any number."""

import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata

from unclip.training.checkpoint_files import (
    CheckpointFiles,
    CheckpointUnreadableError,
    LocalFiles,
    Manifest,
    read_manifest,
)
from unclip.training.checkpoint_shards import ShardReader, ShardWriter
from unclip.training.config import TrainingConfig

log = logging.getLogger(__name__)

OnNotice = Callable[[str], None]  # receives a message for the user
# DCP says this whenever a single process uses it.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


@dataclass(frozen=True)
class Found:
    """A complete checkpoint."""

    step: int
    manifest: Manifest


@dataclass(frozen=True)
class Keep:
    """Which checkpoints are kept: the newest, multiples of `every` steps, and the best."""

    newest: int
    every: int | None = None
    best: bool = False  # the one with the least validation loss

    @classmethod
    def of(cls, config: TrainingConfig) -> Self:
        """As a training asks for."""
        best = config.result == "best"
        return cls(config.keep_checkpoints, config.keep_every_steps, best)

    def always(self, step: int) -> bool:
        """Whether the checkpoint of a step is kept for ever."""
        return self.every is not None and step > 0 and step % self.every == 0


class Checkpoints:
    """Stores training states by the number of steps taken.

    Every worker calls every method. A state consists of tensors, which may be sharded, and of plain
    values that JSON can hold. One of these is the `validation_loss`, None if there is none.

    files: where checkpoints are written; others: where there may be more to go on from.
    """

    def __init__(
        self, files: CheckpointFiles, keep: Keep, *, others: Sequence[CheckpointFiles] = ()
    ) -> None:
        self.files = files
        self.keep = keep
        self.others = others
        self._saving: Future[Any] | None = None

    def save(self, step: int, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Copy the state to host memory, and write it in the background.

        Waits for the save before, and raises its error. A crash leaves this state or the last one.
        """
        self.wait()
        files = self.files_for(step)
        saving = state_dict_saver.async_save(
            dict(tensors),
            storage_writer=_Writer(files, step, values, self.keep),
            process_group=self._group,
        )
        assert isinstance(saving, Future), "the default stager copies before it returns"
        self._saving = saving

    def wait(self) -> bool:
        """Wait until the save under way has ended, and raise its error; False if there is none."""
        if self._saving is None:
            return False
        saving, self._saving = self._saving, None
        _raising(saving.result)
        return True

    def latest(self, on_notice: OnNotice) -> Found | None:
        """The newest complete checkpoint; None if there is none. All workers get the same.

        `on_notice` receives a message for each newer checkpoint that is damaged, with the step from
        which training continues.
        """
        self.wait()
        return self._on_leader(lambda: self._find(on_notice))

    def best(self) -> Found | None:
        """The complete checkpoint with the least validation loss; None if none has one."""
        self.wait()
        return self._on_leader(lambda: _best(self.files, *self.others))

    def load(self, found: Found, tensors: Mapping[str, Tensor]) -> None:
        """Read a checkpoint into tensors that may be sharded in another way than when it was saved.

        A worker reads only what its own parts need.
        """
        reader = ShardReader(found.manifest)
        _raising(
            lambda: state_dict_loader.load(
                dict(tensors), storage_reader=reader, process_group=self._group
            )
        )

    def files_for(self, step: int) -> CheckpointFiles:
        """Where the checkpoint of a step is written."""
        del step
        return self.files

    @cached_property
    def _group(self) -> dist.ProcessGroup | None:
        # A group of its own, because saves communicate while training does.
        if not dist.is_initialized():
            return None
        group: dist.ProcessGroup = dist.new_group(backend="gloo")  # type: ignore[assignment]
        return group

    def _on_leader(self, call: Callable[[], Found | None]) -> Found | None:
        """The result of rank 0, for all workers."""
        if self._group is None:
            return call()
        found: list[Found | Exception | None] = [None]
        if dist.get_rank() == 0:
            try:
                found[0] = call()
            except Exception as error:  # the other workers wait for an answer
                found[0] = error
        dist.broadcast_object_list(found, group=self._group)
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def _find(self, on_notice: OnNotice) -> Found | None:
        damaged: list[tuple[int, str]] = []
        found: Found | None = None
        for step, files, sizes in _candidates(self.files, *self.others):
            try:
                found = Found(step, read_manifest(files, folder_of(step), sizes))
                break
            except CheckpointUnreadableError as error:
                damaged.append((step, str(error)))
        instead = f"goes on from step {found.step}" if found else "starts again from step 0"
        for step, reason in damaged:
            on_notice(
                f"checkpoint of step {step} cannot be read ({reason}); training {instead} instead"
            )
        return found


class LocalCheckpoints(Checkpoints):
    """Folders such as `step-00000500` in one folder on a disk that all workers share."""

    def __init__(self, folder: Path, keep: Keep) -> None:
        super().__init__(LocalFiles(folder), keep)


class _Writer(ShardWriter):
    """Removes old checkpoints when a new one is complete."""

    def __init__(
        self, files: CheckpointFiles, step: int, values: Mapping[str, Any], keep: Keep
    ) -> None:
        super().__init__(files, folder_of(step), values)
        self.keep = keep

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        super().finish(metadata, results)
        log.debug("saved the checkpoint in %s", self.folder)
        sizes = self.files.sizes()
        best = _best(self.files) if self.keep.best else None
        for old in _steps(sizes)[: -self.keep.newest]:
            if self.keep.always(old) or (best and best.step == old):
                continue
            names = [name for name in sizes if name.startswith(f"{folder_of(old)}/")]
            self.files.remove(sorted(names))


def _candidates(
    *places: CheckpointFiles,
) -> list[tuple[int, CheckpointFiles, Mapping[str, int]]]:
    """The checkpoints by falling step, each with its files and their sizes."""
    found = []
    for files in places:
        sizes = files.sizes()
        found += [(step, files, sizes) for step in _steps(sizes)]
    return sorted(found, key=lambda each: -each[0])


def _best(*places: CheckpointFiles) -> Found | None:
    """The complete checkpoint with the least validation loss, of equals the earliest."""
    found: list[tuple[float, int, Found]] = []
    for step, files, sizes in _candidates(*places):
        with suppress(CheckpointUnreadableError):
            manifest = read_manifest(files, folder_of(step), sizes)
            loss = manifest.values.get("validation_loss")
            if loss is not None:
                found.append((loss, step, Found(step, manifest)))
    return min(found, key=lambda each: each[:2])[2] if found else None


def folder_of(step: int) -> str:
    """The folder of a checkpoint."""
    return f"step-{step:08d}"


def _steps(names: Mapping[str, int]) -> list[int]:
    """Steps of the checkpoints that the files belong to, ascending."""
    found = (re.match(r"step-(\d{8,})/", name) for name in names)
    return sorted({int(match[1]) for match in found if match})


def _raising(call: Callable[[], Any]) -> None:
    """Call, and raise the error of a worker in place of DCP's collection of them."""
    try:
        call()
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        cause.add_note(f"raised by worker {rank} while it read or wrote a checkpoint")
        raise cause from None
