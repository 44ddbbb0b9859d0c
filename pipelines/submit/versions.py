"""Checks that the cluster has this machine's versions, before a job is submitted.

The driver runs this checkout's code with the cluster's Python and packages, so the versions must
match. A mismatch is an error here, rather than a traceback on the head node an hour later.
"""

import contextlib
import json
import logging
import platform
import shlex
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from http.client import HTTPException

from ray.job_submission import JobSubmissionClient

from pipelines.core.provenance import PACKAGES, version
from pipelines.submit.client import (
    SubmitError,
    auth_headers,
    dashboard_url,
    open_client,
    refused,
    translated,
    unreachable,
)

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 15.0
PROBE_TIMEOUT_S = 120.0
NEEDED = tuple(name for name in PACKAGES if name != "unclip")  # unclip may come with the job
# Runs with the cluster's `python`, of any version, outside any checkout.
_PROBE = """
import json, platform
from importlib import metadata
def of(name):
    try: return metadata.version(name)
    except metadata.PackageNotFoundError: return None
print("versions " + json.dumps(dict(python=platform.python_version(), **{n: of(n) for n in %r})))
"""


def connect(address: str) -> JobSubmissionClient:
    """A client of a cluster with this machine's Ray and Python. Raises `SubmitError`."""
    url = dashboard_url(address)
    check_versions(url, cluster_versions(url))
    return open_client(url)


def cluster_versions(url: str) -> Mapping[str, str]:
    """The cluster's versions: {"ray": …, "python": …}. Raises `SubmitError`."""
    request = urllib.request.Request(f"{url}/api/v0/cluster_metadata", headers=auth_headers())
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:
            data = json.load(answer)["data"]
            return {"ray": str(data["rayVersion"]), "python": str(data["pythonVersion"])}
    except urllib.error.HTTPError as error:
        raise refused(url, error.code) from error
    except (OSError, HTTPException) as error:
        raise unreachable(url, str(getattr(error, "reason", None) or error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SubmitError(
            f"{url} answers, but not as a Ray dashboard does. Check --address: the dashboard's "
            "port is needed, 8265 unless the cluster was started with another."
        ) from error


def check_versions(url: str, cluster: Mapping[str, str]) -> None:
    """Compare Ray exactly, and Python by its first two numbers. Raises `SubmitError`."""
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


def check_packages(client: JobSubmissionClient, url: str) -> None:
    """Check the packages of the `python` that will run the driver. Raises `SubmitError`.

    Submits a probe job, which takes about two seconds.
    """
    found = _probe(client, url)
    log.info("packages of the cluster: %s", found)
    check_versions(url, {"ray": found["ray"] or "none", "python": found["python"] or "none"})
    missing = [name for name in NEEDED if found[name] is None]
    if missing:
        raise SubmitError(
            f"The cluster at {url} lacks the packages {', '.join(missing)}. Nothing was submitted. "
            "Install them on every node: pip install --constraint requirements.lock '.[pipelines]'."
        )
    if found["unclip"] not in (None, version("unclip")):
        raise SubmitError(
            f"The cluster at {url} has unclip {found['unclip']} installed with its "
            f"requirements, and this checkout is {version('unclip')}. Nothing was submitted. Check "
            f"out {found['unclip']}, or install this checkout on every node."
        )


def _probe(client: JobSubmissionClient, url: str) -> Mapping[str, str | None]:
    job = f"unclip-probe-{uuid.uuid4().hex[:12]}"
    code = _PROBE % (("unclip", *NEEDED),)
    with translated(url):
        client.submit_job(entrypoint=shlex.join(["python", "-c", code]), submission_id=job)
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.2)
        printed = client.get_job_logs(job)
        with contextlib.suppress(RuntimeError):  # a probe that hangs cannot be deleted
            client.delete_job(job)
    lines = printed.strip().splitlines() or ["no answer in time"]
    if not lines[-1].startswith("versions {"):
        raise SubmitError(
            f"The cluster at {url} could not run a probe of its `python`: {lines[-1]}. Nothing was "
            "submitted. Start Ray there from an activated environment, so that `python` has Ray."
        )
    found: Mapping[str, str | None] = json.loads(lines[-1].removeprefix("versions "))
    return found


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])
