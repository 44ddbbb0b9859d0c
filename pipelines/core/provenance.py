"""Where a result was made: recorded in its manifest, never part of its key."""

import logging
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

log = logging.getLogger(__name__)

PACKAGES = ("unclip", "torch", "open_clip_torch", "ray", "img2dataset", "pyarrow", "mlflow")


@cache
def provenance() -> dict[str, object]:
    """The commit, the versions of `PACKAGES` and of Python, and the driver's host."""
    return {
        "commit": git_commit(),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "host": platform.node(),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
    }


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The checkout's commit, with "+changes" if it has uncommitted changes; None outside git.

    A submitted run has no checkout: the client passes the commit that it packed in UNCLIP_COMMIT.
    """
    if submitted := os.environ.get("UNCLIP_COMMIT"):
        return submitted
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError) as error:
        log.debug("no commit is recorded: %s", error)
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
