"""Packs what a job needs on the cluster: the code of this checkout and the config."""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pipelines
import unclip
from pipelines.submit.client import SubmitError

log = logging.getLogger(__name__)

CONFIG = "job.yaml"
MAX_BYTES = 100 * 2**20  # every node downloads the package; Ray's own limit is 512 MiB


@contextlib.contextmanager
def packed(config_path: Path) -> Iterator[Path]:
    """A temporary folder with the two packages, job.yaml, and pyproject.toml if there is one.

    Raises `SubmitError`.
    """
    if not config_path.is_file():
        raise SubmitError(f"The config {config_path} does not exist. Give the path of a YAML file.")
    with tempfile.TemporaryDirectory(prefix="unclip-job-") as name:
        folder = Path(name)
        for package in (pipelines, unclip):
            source = Path(str(package.__file__)).parent
            junk = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
            shutil.copytree(source, folder / source.name, ignore=junk)
        project = Path(str(pipelines.__file__)).parents[1] / "pyproject.toml"
        if project.is_file():
            shutil.copy(project, folder)
        shutil.copyfile(config_path, folder / CONFIG)
        _check_size(folder)
        log.debug("packed %s into %s", config_path, folder)
        yield folder


def _check_size(folder: Path) -> None:
    sizes = {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(sizes, key=lambda p: sizes[p])
        raise SubmitError(
            f"The code to submit has {sum(sizes.values()) / 2**20:.0f} MiB; the limit is "
            f"{MAX_BYTES // 2**20} MiB. The largest file is {largest.relative_to(folder)}. Move "
            "data out of the packages, to a place that the cluster can read."
        )
