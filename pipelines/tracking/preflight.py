"""The check before a run starts: does the tracking server answer, and is its database migrated?"""

import logging
from collections.abc import Callable

from pipelines.core.errors import PipelineError, first_line
from pipelines.core.store import Store
from pipelines.tracking.location import SQLITE, tracking_uri
from pipelines.tracking.server import Server
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.time_limit import TimeLimitedCaller

log = logging.getLogger(__name__)

LIMIT_S = 60.0  # creating the tables of a new database takes seconds, longer on a busy machine
GO_ON = (
    "or start without it with --set run.tracking.required=false: tracking records are then kept in "
    "the store and sent later."
)


def prepare(settings: TrackingSettings, store: Store, warn: Callable[[str], None]) -> str:
    """The tracking URI, with its database migrated and its experiment created.

    If the server does not answer, raises `PipelineError` if `settings.required`, else warns.
    """
    uri = tracking_uri(settings, store)
    server = Server(uri, settings.experiment, store)
    try:
        TimeLimitedCaller("tracking-preflight").call(server.experiment_id, within_s=LIMIT_S)
    except PipelineError:
        raise
    except Exception as error:
        log.debug("the preflight of %s failed", uri, exc_info=True)
        what, hint = _explained(uri)
        problem = f"{what}: {first_line(error)}."
        if settings.required:
            raise PipelineError(f"{problem} {hint}, {GO_ON}") from error
        warn(f"{problem} The run continues; tracking records are kept in the store and sent later.")
    return uri


def _explained(uri: str) -> tuple[str, str]:
    """What does not work, and the first part of the hint."""
    if uri.startswith(SQLITE):
        path = uri.removeprefix(SQLITE)
        return (
            f"The tracking database {path} cannot be used",
            "Check that its folder can be written and the disk has room, give another with "
            "--set run.tracking.uri=…",
        )
    return (
        f"The tracking server {uri} does not answer",
        "Start it, give another with --set run.tracking.uri=…",
    )
