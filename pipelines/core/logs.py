"""Shows the log messages of our own packages, in the driver and in its workers."""

import logging
from typing import Any

PACKAGES = ("unclip", "pipelines")
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def show_logs(level: int = logging.DEBUG) -> None:
    """Write messages of `unclip` and `pipelines` from this level on to stderr.

    Other packages keep their settings. Calling it again replaces the handler.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT, datefmt="%H:%M:%S"))
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(level)
        logger.handlers = [handler]
        logger.propagate = False


def are_shown() -> bool:
    """Whether `show_logs` was called in this process."""
    return not logging.getLogger(PACKAGES[0]).propagate


def ray_options() -> dict[str, Any]:
    """Arguments of `ray.init` with which workers log as this process does."""
    if not are_shown():
        return {"log_to_driver": False}
    hook = f"{show_logs.__module__}.{show_logs.__name__}"
    return {"log_to_driver": True, "runtime_env": {"worker_process_setup_hook": hook}}
