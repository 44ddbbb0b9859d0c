"""The connection to a cluster's Jobs API, and what is checked before anything is sent there.

The driver runs the cluster's Python with the cluster's packages and this checkout's code, so the
three must fit: an unfit client is told here, not by a traceback on the head node an hour later.
"""

import contextlib
import json
import os
import platform
import shlex
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipelines.core.errors import PipelineError
from pipelines.core.provenance import PACKAGES, version

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

REQUEST_TIMEOUT_S = 15.0
PROBE_TIMEOUT_S = 120.0
NEEDED = tuple(name for name in PACKAGES if name != "unclip")  # it may come with the job alone
TOKEN_HELP = (
    "Put the cluster's token into ~/.ray/auth_token, or set RAY_AUTH_TOKEN; "
    "`ray get-auth-token` on the head node prints it."
)
# Runs with the cluster's `python`, of whatever version, outside any checkout.
_PROBE = """
import json, platform
from importlib import metadata
def of(name):
    try: return metadata.version(name)
    except metadata.PackageNotFoundError: return None
print("versions " + json.dumps(dict(python=platform.python_version(), **{n: of(n) for n in %r})))
"""


class SubmitError(PipelineError):
    """A cluster that cannot be reached or does not fit, or a job that failed there."""


class JobGoneError(SubmitError):
    """The cluster does not know the job: a wrong id, or a head node that was started anew."""


def connect(address: str) -> "JobSubmissionClient":
    """A client of the Jobs API. Raises `SubmitError` where the cluster cannot be used from here."""
    url = dashboard_url(address)
    check_versions(url, cluster_versions(url))
    from ray.job_submission import JobSubmissionClient

    with _explicit_address(), translated(url):
        return JobSubmissionClient(url, headers=auth_headers())


def dashboard_url(address: str) -> str:
    """Both "head:8265" and "http://head:8265/" as "http://head:8265"; other kinds are refused."""
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SubmitError(
            f"--address {address} is not the address of a Ray dashboard. "
            "Give http://HOST:PORT; the port is 8265 unless the cluster was started with another."
        )
    return url


def auth_headers() -> dict[str, str]:
    """The token that Ray would find, as an HTTP header; none where tokens are turned off."""
    token = None if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled" else _token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _token() -> str | None:
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip() or None
    except OSError as error:
        if named:
            raise SubmitError(
                f"RAY_AUTH_TOKEN_PATH={named} cannot be read ({error.strerror}). {TOKEN_HELP}"
            ) from error
        return None


def cluster_versions(url: str) -> Mapping[str, str]:
    """Ray's and Python's version on the cluster: {"ray": …, "python": …}."""
    request = urllib.request.Request(f"{url}/api/v0/cluster_metadata", headers=auth_headers())
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:
            data = json.load(answer)["data"]
            return {"ray": str(data["rayVersion"]), "python": str(data["pythonVersion"])}
    except urllib.error.HTTPError as error:
        raise _refused(url, error.code) from error
    except (OSError, HTTPException) as error:
        raise _unreachable(url, str(getattr(error, "reason", None) or error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SubmitError(
            f"{url} answers, but not as a Ray dashboard does. Check --address: the dashboard's "
            "port is needed, 8265 unless the cluster was started with another."
        ) from error


def check_versions(url: str, cluster: Mapping[str, str]) -> None:
    """Compare Ray exactly and Python by its minor version."""
    ours = {"ray": version("ray") or "none", "python": platform.python_version()}
    if cluster["ray"] != ours["ray"]:
        raise SubmitError(
            f"The cluster at {url} runs Ray {cluster['ray']}, and this machine has {ours['ray']}; "
            "they must be equal. Nothing was submitted. Start the cluster with the versions of "
            f"requirements.lock, or install ray=={cluster['ray']} here."
        )
    if _minor(cluster["python"]) != _minor(ours["python"]):
        raise SubmitError(
            f"The cluster at {url} runs Python {cluster['python']}, and this machine "
            f"{ours['python']}; the first two numbers must be equal. Nothing was submitted. "
            f"Make an environment with Python {_minor(cluster['python'])} here, or start the "
            f"cluster with {_minor(ours['python'])}."
        )


def check_packages(client: "JobSubmissionClient", url: str) -> None:
    """Ask the `python` that will run the driver for its packages, with a job of two seconds."""
    found = _probe(client, url)
    check_versions(url, {"ray": found["ray"] or "none", "python": found["python"] or "none"})
    missing = [name for name in NEEDED if found[name] is None]
    if missing:
        raise SubmitError(
            f"The cluster at {url} lacks the packages {', '.join(missing)}. Nothing was submitted. "
            "Install them on every node: pip install --constraint requirements.lock '.[pipelines]'."
        )
    if found["unclip"] not in (None, version("unclip")):
        raise SubmitError(
            f"The cluster at {url} has unclip {found['unclip']} installed with what that version "
            f"needs, and this checkout is {version('unclip')}. Nothing was submitted. Check out "
            f"{found['unclip']}, or install this checkout on every node."
        )


def _probe(client: "JobSubmissionClient", url: str) -> Mapping[str, str | None]:
    job = f"unclip-probe-{uuid.uuid4().hex[:12]}"
    code = _PROBE % (("unclip", *NEEDED),)
    with translated(url):
        client.submit_job(entrypoint=shlex.join(["python", "-c", code]), submission_id=job)
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.2)
        printed = client.get_job_logs(job)
        with contextlib.suppress(RuntimeError):  # one that hangs cannot be deleted
            client.delete_job(job)
    lines = printed.strip().splitlines() or ["no answer in time"]
    if not lines[-1].startswith("versions {"):
        raise SubmitError(
            f"The cluster at {url} could not run a probe of its `python`: {lines[-1]}. Nothing was "
            "submitted. Start Ray there from an activated environment, so that `python` is the one "
            "with Ray."
        )
    found: Mapping[str, str | None] = json.loads(lines[-1].removeprefix("versions "))
    return found


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """What Ray's client raises, as errors that a user can act on."""
    import aiohttp
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise _refused(url, 401) from error
    except (OSError, aiohttp.ClientError) as error:  # what requests raises is an OSError
        raise _unreachable(url, _first_line(error)) from error
    except RuntimeError as error:
        kind = JobGoneError if "status code 404" in str(error) else SubmitError
        raise kind(f"The cluster at {url} says: {_first_line(error)}") from error


@contextlib.contextmanager
def _explicit_address() -> Iterator[None]:
    """Without these, which Ray puts above the address that a caller gives."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _refused(url: str, status: int) -> SubmitError:
    if status == 401 and not auth_headers():
        return SubmitError(
            f"The cluster at {url} asks for a token, and there is none. {TOKEN_HELP}"
        )
    if status in (401, 403):
        return SubmitError(f"The cluster at {url} refuses the token that was sent. {TOKEN_HELP}")
    return SubmitError(
        f"{url} answers with HTTP status {status}, not as a Ray dashboard does. Check --address "
        "and whatever stands between this machine and the head node."
    )


def _unreachable(url: str, why: str) -> SubmitError:
    return SubmitError(
        f"No cluster can be reached at {url}: {why}. Check --address, that the cluster is up, and "
        "that its port is forwarded to this machine (`ray dashboard ray_cluster.yaml` does so)."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])
