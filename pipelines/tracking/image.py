"""One picture for the tracking server: a run of its own, with what the picture was made from."""

import shlex
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.core.store import Store
from pipelines.tracking.records import flatten, place
from pipelines.tracking.server import Server, tracking_uri
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.spool import Record
from pipelines.tracking.tracker import now_ms, open_outbox, opening


def log_picture(
    picture: Path,
    store: Store,
    settings: TrackingSettings,
    *,
    name: str,
    params: Mapping[str, Any],
    warn: Callable[[str], None],
) -> None:
    """Open the run `name`, log the parameters and the picture, close it.

    Never raises: where the server is away, that is a warning, and the next run tells it.
    """
    try:
        server = Server(tracking_uri(settings, store), settings.experiment, store)
        outbox = open_outbox(server, warn)
    except Exception as error:  # such as a store that no database can lie in
        warn(f"{picture} is not tracked: {error}")
        return
    run = uuid.uuid4().hex
    path = picture.absolute()
    command = {"command": shlex.join(sys.argv), "store": store.root}
    file = {"folder": str(path.parent), "file": path.name, "place": place(path.name)}
    outbox.post(Record("run", run, opening(name, command)))
    outbox.post(Record("batch", run, {"params": list(flatten(params).items())}))
    outbox.post(Record("file", run, file))
    outbox.post(Record("end", run, {"status": "FINISHED", "at_ms": now_ms()}))
    outbox.close()
