"""Training checkpoints in the store, so that any machine can take over."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.store import Folder
from unclip.training import read_state, write_state
from unclip.training.checkpoints import OnNotice, State, newest_readable

FOLDER = ".checkpoints"  # hidden: removed when the stage is done


@dataclass(frozen=True)
class StoreCheckpoints:
    """Files `.checkpoints/step-00000500.pt` of a stage's folder, of which the last `keep` stay."""

    folder: Folder
    keep: int

    def save(self, step: int, state: State) -> None:
        """Publish a state whole, then remove the oldest."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "state.pt"
            write_state(local, state)
            self.folder.publish(local, _name(step))
        for old in self._steps()[: -self.keep]:
            self.folder.remove_file(_name(old))

    def latest(self, on_notice: OnNotice) -> tuple[int, State] | None:
        """The newest file that can be read."""
        return newest_readable(
            self._steps(), lambda step: read_state(self.folder.local(_name(step))), on_notice
        )

    def _steps(self) -> list[int]:
        names = [n for n in self.folder.marks(FOLDER) if n.startswith(f"{FOLDER}/step-")]
        return sorted(int(n.removeprefix(f"{FOLDER}/step-").removesuffix(".pt")) for n in names)


def _name(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}.pt"
