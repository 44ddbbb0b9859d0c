"""Where a training run keeps its state: a protocol, and a local folder that follows it."""

import logging
import os
import re
from pathlib import Path
from typing import Any, Protocol

import torch

log = logging.getLogger(__name__)

State = dict[str, Any]  # tensors, numbers, strings, and lists and dicts of them


class Checkpoints(Protocol):
    """Keeps states by the number of steps that were taken before them."""

    def save(self, step: int, state: State) -> None:
        """Keep `state`, so that a kill at any point leaves it or the one before. Rank 0 calls."""
        ...

    def latest(self) -> tuple[int, State] | None:
        """The newest whole state, on the CPU. Every rank calls, and all must get the same."""
        ...


class LocalCheckpoints:
    """Files `step-00000500.pt` in one folder, of which the last `keep` stay."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: State) -> None:
        """Write the file under another name, flush it to the disk and rename it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.partial"):
            leftover.unlink()
        write_state(self.path(step), state)
        for old in self._steps()[: -self.keep]:
            self.path(old).unlink()

    def latest(self) -> tuple[int, State] | None:
        """The newest file that reads whole; torn ones are passed over with a warning."""
        for step in reversed(self._steps()):
            try:
                return step, read_state(self.path(step))
            except Exception as error:  # torch.load raises many kinds over a torn file
                log.warning("checkpoint %s is unreadable, passed over: %s", self.path(step), error)
        return None

    def path(self, step: int) -> Path:
        """The file of the state after `step` steps."""
        return self.folder / f"step-{step:08d}.pt"

    def _steps(self) -> list[int]:
        names = (re.fullmatch(r"step-(\d{8,})\.pt", p.name) for p in self.folder.glob("step-*.pt"))
        return sorted(int(name[1]) for name in names if name)


def write_state(path: Path, state: State) -> None:
    """Publish `state` at `path` whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_state(path: Path) -> State:
    """Read what `write_state` wrote; only tensors and plain values, never pickled code."""
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    return state
