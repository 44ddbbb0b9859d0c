"""Folders that commands write: whole, or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.core.errors import PipelineError


def new_folder(name: str) -> Path:
    """`--to`; raises `PipelineError` where something is, or where nothing can be written."""
    target = Path(name)
    if target.exists():
        raise PipelineError(f"--to {target} is there already; remove it, or give another name.")
    if not target.absolute().parent.is_dir():
        raise PipelineError(f"There is no folder {target.parent} to write {target.name} into.")
    return target


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder to write into that gets the target's name at the end, and is removed on errors."""
    parent = target.absolute().parent
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent))
    except OSError as error:
        raise PipelineError(f"{parent} cannot be written into: {error.strerror}.") from error
    try:
        scratch.chmod(0o755)  # mkdtemp lets nobody else in
        yield scratch
        scratch.rename(target)
    except OSError as error:  # such as a full disk
        raise PipelineError(f"{target} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
