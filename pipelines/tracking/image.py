"""Logs the images that a command made, as a run of its own with the command's parameters."""

import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import first_line
from pipelines.core.store import Store
from pipelines.tracking.location import tracking_uri
from pipelines.tracking.run_values import flatten
from pipelines.tracking.run_writer import RunWriter, open_outbox
from pipelines.tracking.server import Server
from pipelines.tracking.settings import TrackingSettings

log = logging.getLogger(__name__)


def log_images(
    images: Sequence[Path],
    store: Store,
    settings: TrackingSettings,
    *,
    name: str,
    params: Mapping[str, Any],
    warn: Callable[[str], None],
) -> None:
    """Open the run `name`, log the parameters and the images, and close it.

    Never raises. If the server does not answer, warns, and the next run sends the records.
    """
    try:
        server = Server(tracking_uri(settings, store), settings.experiment, store)
        outbox = open_outbox(server, warn)
    except Exception as error:  # such as a remote store, which cannot hold a database
        log.debug("%s is not tracked", images[0], exc_info=True)
        warn(f"{images[0]} is not tracked: {first_line(error)}.")
        return
    runs = RunWriter(outbox, store)
    run = runs.open(name, {"command": shlex.join(sys.argv), "store": store.root})
    runs.params(run, flatten(params))
    for path in (image.absolute() for image in images):
        runs.file(run, str(path.parent), path.name)
    runs.end(run, "FINISHED")
    outbox.close()
