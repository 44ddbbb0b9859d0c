"""Packs what a job needs on the cluster: this checkout's code, the config, and its modules."""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import pipelines
import unclip
from pipelines.submit.client import SubmitError
from unclip.extension import is_import

log = logging.getLogger(__name__)

CONFIG = "job.yaml"
JUNK = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
MAX_BYTES = 100 * 2**20  # every node downloads the package; Ray's own limit is 512 MiB


@contextlib.contextmanager
def packed(config_path: Path) -> Iterator[Path]:
    """A temporary folder with the two packages, job.yaml, and pyproject.toml if there is one.

    Modules and packages beside the config that it names as "module:name" are packed, too.
    Raises `SubmitError`.
    """
    if not config_path.is_file():
        raise SubmitError(f"The config {config_path} does not exist. Give the path of a YAML file.")
    with tempfile.TemporaryDirectory(prefix="unclip-job-") as name:
        folder = Path(name)
        for package in (pipelines, unclip):
            source = Path(str(package.__file__)).parent
            shutil.copytree(source, folder / source.name, ignore=JUNK)
        project = Path(str(pipelines.__file__)).parents[1] / "pyproject.toml"
        if project.is_file():
            shutil.copy(project, folder)
        shutil.copyfile(config_path, folder / CONFIG)
        _copy_modules(config_path, folder)
        _check_size(folder)
        log.debug("packed %s into %s", config_path, folder)
        yield folder


def _copy_modules(config_path: Path, folder: Path) -> None:
    """Copy the modules that the config names; those that are not beside it are installed ones."""
    named = _strings(yaml.safe_load(config_path.read_text()))
    for module in sorted({text.partition(":")[0].partition(".")[0] for text in named}):
        package = config_path.parent / module
        if (package / "__init__.py").is_file():
            shutil.copytree(package, folder / module, ignore=JUNK, dirs_exist_ok=True)
        elif package.with_suffix(".py").is_file():
            shutil.copy(package.with_suffix(".py"), folder)


def _strings(value: Any) -> Iterator[str]:
    """All "module:name" in a YAML value, keys included."""
    if isinstance(value, str) and is_import(value):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)


def _check_size(folder: Path) -> None:
    sizes = {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(sizes, key=lambda p: sizes[p])
        raise SubmitError(
            f"The code to submit has {sum(sizes.values()) / 2**20:.0f} MiB; the limit is "
            f"{MAX_BYTES // 2**20} MiB. The largest file is {largest.relative_to(folder)}. Move "
            "data out of the packages, to a place that the cluster can read."
        )
