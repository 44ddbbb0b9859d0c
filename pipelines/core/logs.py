"""Shows the log messages of our own packages."""

import logging

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
