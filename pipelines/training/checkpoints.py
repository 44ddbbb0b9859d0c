"""Training checkpoints in the store, so that any machine can take over."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.folder import Folder
from unclip.training import CheckpointFiles, Checkpoints, Keep

WORKING = ".checkpoints"  # hidden: removed when the stage is done
FINAL = "state"  # the final state, from which a longer training continues


@dataclass(frozen=True)
class StoreFiles:
    """A subfolder of a stage's folder in the store."""

    folder: Folder
    subfolder: str

    def sizes(self) -> Mapping[str, int]:
        """The files in the subfolder and their sizes in bytes."""
        return self.folder.sizes(self.subfolder)

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """A local path to write to, which is uploaded afterwards."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "part"
            yield local
            self.folder.publish(local, f"{self.subfolder}/{name}")

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes of a file from `start` up to `end`."""
        path = f"{self.subfolder}/{name}"
        return self.folder.read_ranges({path: (start, end)}).get(path, b"")

    def remove(self, names: Iterable[str]) -> None:
        """Delete files."""
        self.folder.remove_files(f"{self.subfolder}/{name}" for name in names)


class StoreCheckpoints(Checkpoints):
    """Folders such as `.checkpoints/step-00000500` in a stage's folder.

    Those at multiples of `keep.every` are outputs of the stage, `state/step-…`.

    final_step: another step whose checkpoint is an output; None for none.
    start: the folder of a finished, shorter training that this one continues.
    """

    def __init__(
        self,
        folder: Folder,
        keep: Keep,
        *,
        final_step: int | None = None,
        start: Folder | None = None,
    ) -> None:
        self.final = StoreFiles(folder, FINAL)
        self.final_step = final_step
        others = [self.final, *([StoreFiles(start, FINAL)] if start else [])]
        super().__init__(StoreFiles(folder, WORKING), keep, others=others)

    def files_for(self, step: int) -> CheckpointFiles:
        """Where the checkpoint of a step is written."""
        is_output = step == self.final_step or self.keep.always(step)
        return self.final if is_output else self.files
