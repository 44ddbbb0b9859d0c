"""The connection to a cluster's Jobs API: address, token, and readable errors."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from pipelines.core.errors import PipelineError, first_line

log = logging.getLogger(__name__)

TOKEN_HELP = (
    "Put the cluster's token into ~/.ray/auth_token, or set RAY_AUTH_TOKEN; "
    "`ray get-auth-token` on the head node prints it."
)


class SubmitError(PipelineError):
    """The cluster cannot be reached or does not fit, or a job failed there."""


class JobGoneError(SubmitError):
    """The cluster does not know the job: the id is wrong, or the head node was restarted."""


def open_client(url: str) -> JobSubmissionClient:
    """A client of the Jobs API. Raises `SubmitError` if the cluster cannot be used from here."""
    log.debug("connecting to %s", url)
    with _explicit_address(), translated(url):
        return JobSubmissionClient(url, headers=auth_headers())


def dashboard_url(address: str) -> str:
    """The URL of a dashboard: "http://head:8265" for "head:8265". Raises `SubmitError`."""
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SubmitError(
            f"--address {address} is not the address of a Ray dashboard. "
            "Give http://HOST:PORT; the port is 8265 unless the cluster was started with another."
        )
    return url


def auth_headers() -> dict[str, str]:
    """The token that Ray would use, as an HTTP header; empty if tokens are turned off."""
    token = None if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled" else _token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _token() -> str | None:
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given.strip()
    configured = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(configured) if configured else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip() or None
    except OSError as error:
        if configured:
            raise SubmitError(
                f"RAY_AUTH_TOKEN_PATH={configured} cannot be read ({error.strerror}). {TOKEN_HELP}"
            ) from error
        return None


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise the errors of Ray's client as `SubmitError` with a hint."""
    try:
        yield
    except AuthenticationError as error:
        raise refused(url, 401) from error
    except (OSError, aiohttp.ClientError) as error:  # errors of requests are OSErrors
        raise unreachable(url, first_line(error)) from error
    except RuntimeError as error:
        kind = JobGoneError if "status code 404" in str(error) else SubmitError
        raise kind(f"The cluster at {url} answers: {first_line(error)}") from error


@contextlib.contextmanager
def _explicit_address() -> Iterator[None]:
    """Unset the variables that would override the address in the call."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


def refused(url: str, status: int) -> SubmitError:
    """The error for an HTTP status other than success."""
    if status == 401 and not auth_headers():
        return SubmitError(f"The cluster at {url} asks for a token, and none is set. {TOKEN_HELP}")
    if status in (401, 403):
        return SubmitError(f"The cluster at {url} refuses the token that was sent. {TOKEN_HELP}")
    return SubmitError(
        f"{url} answers with HTTP status {status}, not as a Ray dashboard does. Check --address "
        "and the proxies between this machine and the head node."
    )


def unreachable(url: str, why: str) -> SubmitError:
    """The error for a cluster that does not answer."""
    return SubmitError(
        f"No cluster can be reached at {url}: {why}. Check --address, that the cluster is up, and "
        "that its port is forwarded to this machine, as with `ray dashboard ray_cluster.yaml`."
    )
