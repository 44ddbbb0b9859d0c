"""Training checkpoints in the store, so that any machine can take over."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.core.folder import Folder
from unclip.training import read_state, write_state
from unclip.training.checkpoints import OnNotice, State, newest_readable

log = logging.getLogger(__name__)

WORKING = ".checkpoints"  # hidden: removed when the stage is done
FINAL = "state"  # the final state, from which a longer training continues


@dataclass(frozen=True)
class StoreCheckpoints:
    """Files `.checkpoints/step-00000500.pt` in a stage's folder; the newest `keep` are kept.

    start: the folder of a finished, shorter training that this one continues.
    """

    folder: Folder
    keep: int
    start: Folder | None = None

    def save(self, step: int, state: State) -> None:
        """Publish a state, then remove the oldest ones."""
        self._publish(f"{WORKING}/{_file(step)}", state)
        for old in _steps(self.folder, WORKING)[: -self.keep]:
            self.folder.remove_file(f"{WORKING}/{_file(old)}")

    def latest(self, on_notice: OnNotice) -> tuple[int, State] | None:
        """The newest readable state with its step; None if there is none."""
        files = self._files()
        return newest_readable(sorted(files), lambda step: read_state(files[step]()), on_notice)

    def keep_final(self, step: int) -> None:
        """Make the state after `step` an output of the stage."""
        source = f"{WORKING}/{_file(step)}"
        self.folder.publish(self.folder.local(source), f"{FINAL}/{_file(step)}")

    def _files(self) -> dict[int, Callable[[], Path]]:
        """Step → a function that returns a local path of the state."""
        sources = [(self.start, FINAL)] if self.start is not None else []
        sources.append((self.folder, WORKING))
        return {
            step: partial(folder.local, f"{subfolder}/{_file(step)}")
            for folder, subfolder in sources
            for step in _steps(folder, subfolder)
        }

    def _publish(self, name: str, state: State) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "state.pt"
            write_state(local, state)
            self.folder.publish(local, name)


def _steps(folder: Folder, subfolder: str) -> list[int]:
    prefix = f"{subfolder}/step-"
    names = [n for n in folder.marks(subfolder) if n.startswith(prefix)]
    return sorted(int(n.removeprefix(prefix).removesuffix(".pt")) for n in names)


def _file(step: int) -> str:
    return f"step-{step:08d}.pt"
