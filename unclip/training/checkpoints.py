"""Storage of training states: the protocol `Checkpoints`, and a local folder that implements it."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

log = logging.getLogger(__name__)

State = dict[str, Any]  # tensors, numbers, strings, and lists and dicts of them
OnNotice = Callable[[str], None]  # receives a message for the user


class CheckpointUnreadableError(RuntimeError):
    """A checkpoint file is damaged."""


class Checkpoints(Protocol):
    """Stores training states by the number of steps taken."""

    def save(self, step: int, state: State) -> None:
        """Store `state` atomically: a crash leaves this state or the last one. Rank 0 calls it."""
        ...

    def latest(self, on_notice: OnNotice) -> tuple[int, State] | None:
        """The newest readable state, on the CPU, and its step; None if there is none.

        Every rank calls it, and all must get the same state. `on_notice` receives one message for
        each newer checkpoint that cannot be read.
        """
        ...


class LocalCheckpoints:
    """Files such as `step-00000500.pt` in one folder; only the newest `keep` are kept."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: State) -> None:
        """Write the file under a temporary name, flush it to disk and rename it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.partial"):
            leftover.unlink()
        write_state(self.path(step), state)
        for old in self._steps()[: -self.keep]:
            self.path(old).unlink()

    def latest(self, on_notice: OnNotice) -> tuple[int, State] | None:
        """The newest file that can be read."""
        return newest_readable(self._steps(), lambda step: read_state(self.path(step)), on_notice)

    def path(self, step: int) -> Path:
        """The file that holds the state after `step` steps."""
        return self.folder / f"step-{step:08d}.pt"

    def _steps(self) -> list[int]:
        names = (re.fullmatch(r"step-(\d{8,})\.pt", p.name) for p in self.folder.glob("step-*.pt"))
        return sorted(int(name[1]) for name in names if name)


def newest_readable(
    steps: Sequence[int], read: Callable[[int], State], on_notice: OnNotice
) -> tuple[int, State] | None:
    """The newest state that `read` can read, and its step; None if there is none.

    steps: of the checkpoints, ascending. `CheckpointUnreadableError` leads to the next older
    checkpoint. Any other error, such as an unreachable store, is raised. `on_notice` receives a
    message for each damaged checkpoint, with the step from which training continues.
    """
    damaged: list[tuple[int, str]] = []
    found: tuple[int, State] | None = None
    for step in reversed(steps):
        try:
            found = step, read(step)
            break
        except CheckpointUnreadableError as error:
            damaged.append((step, str(error)))
    instead = f"goes on from step {found[0]}" if found else "starts again from step 0"
    for step, reason in damaged:
        on_notice(
            f"checkpoint of step {step} cannot be read ({reason}); training {instead} instead"
        )
    return found


def write_state(path: Path, state: State) -> None:
    """Write `state` to `path` atomically: the file appears complete or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    log.debug("wrote %s, %d bytes", path, path.stat().st_size)


def read_state(path: Path) -> State:
    """Read what `write_state` wrote; only tensors and plain values, never pickled code.

    Raises `CheckpointUnreadableError` for a damaged file and OSError for one that cannot be opened.
    """
    with path.open("rb") as file:
        try:
            state: State = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types for a damaged file, even OSError
            lines = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {lines[0] if lines else 'no details'}"
            raise CheckpointUnreadableError(reason) from error
    return state
