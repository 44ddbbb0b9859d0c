"""Runs `unclip run` on a cluster, through Ray's Jobs API.

Ray runs a job once. While `submit` follows a job, it submits the same job again if the driver or
the workers are lost. Finished work is in the store, so the new job continues from there.
"""

import logging
import re
import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from ray.job_submission import JobSubmissionClient

from pipelines.core.provenance import git_commit
from pipelines.submit.client import JobGoneError, SubmitError, dashboard_url, translated
from pipelines.submit.package import CONFIG, packed
from pipelines.submit.versions import check_packages, connect
from pipelines.submit.watch import JobState, Write, job_state, reason_to_repeat
from pipelines.submit.watch import follow as follow_job

log = logging.getLogger(__name__)

ENTRYPOINT = ("python", "-m", "pipelines.cli.main", "run")
STOP_TIMEOUT_S = 30.0


def _print(text: str) -> None:
    print(text, end="", flush=True)


def submit(
    config_path: Path,
    arguments: Sequence[str],
    *,
    address: str,
    store: str,
    follow: bool = True,
    attempts: int = 3,
    write: Write = _print,
    env: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] = ENTRYPOINT,
) -> str:
    """Run the config on the cluster with flags of `unclip run`; returns the last attempt's id.

    `store` is the root that the run will use. With `follow`, writes the driver's output and returns
    when the run has succeeded; if the driver or the workers are lost, submits again, up to
    `attempts` times in total. `env` is set for the driver and the workers. Raises `SubmitError`.
    """
    check_store(store)
    if attempts < 1:
        raise SubmitError(f"--attempts {attempts} would start nothing; give 1 or more.")
    client, url = connect(address), dashboard_url(address)
    check_packages(client, url)
    job = _new_id(config_path.stem)
    # exec: signals go to Python, not to a shell.
    command = f"exec {shlex.join([*entrypoint, CONFIG, *arguments])}"
    with packed(config_path) as folder:
        send = _Sender(client, url, folder, command, env or {})
        send(job)
        write(f"Submitted {job} to {url}.\n")
        if not follow:
            return job
        try:
            return _follow_attempts(send, job, attempts=attempts, write=write)
        except KeyboardInterrupt:
            write(f"\nThe job keeps running. To follow it: unclip logs {job} -f --address {url}\n")
            raise


def status(job_id: str, *, address: str) -> JobState:
    """The state of a job's latest attempt. Raises `SubmitError`."""
    client, url = connect(address), dashboard_url(address)
    return job_state(client, url, _latest(client, url, job_id))


def logs(job_id: str, *, address: str, follow: bool = False, write: Write = _print) -> None:
    """Write the output of the latest attempt's driver, with `follow` until the job ends."""
    client, url = connect(address), dashboard_url(address)
    latest = _latest(client, url, job_id)
    if follow:
        follow_job(client, url, latest, write)
        return
    with translated(url):
        write(client.get_job_logs(latest))


def stop(job_id: str, *, address: str) -> JobState:
    """Stop a job's latest attempt and its workers. Finished work stays in the store."""
    client, url = connect(address), dashboard_url(address)
    latest = _latest(client, url, job_id)
    with translated(url):
        client.stop_job(latest)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not (state := job_state(client, url, latest)).ended:
        if time.monotonic() > deadline:
            raise SubmitError(
                f"Job {latest} still runs {STOP_TIMEOUT_S:.0f} s after the request to stop. "
                f"Look at {url}, and try again."
            )
        time.sleep(0.2)
    return state


def check_store(store: str) -> None:
    """Raise `SubmitError` for a relative store, which would be deleted with the job."""
    if "://" not in store and not PurePosixPath(store).is_absolute():
        raise SubmitError(
            f"The store {store} is relative to the folder in which the driver runs, and would be "
            "lost with the job. Give a bucket (s3://…), or the full path of a folder that every "
            "node of the cluster shares, with run.store or --store."
        )


@dataclass(frozen=True)
class _Sender:
    """Submits the same command and code each time, under a given id."""

    client: JobSubmissionClient
    url: str
    folder: Path
    command: str
    env: Mapping[str, str]

    def __call__(self, job: str) -> None:
        commit = git_commit() or "unknown"
        log.info("submitting %s to %s: %s", job, self.url, self.command)
        with translated(self.url):
            self.client.submit_job(
                entrypoint=self.command,
                submission_id=job,
                metadata={"commit": commit},
                runtime_env={
                    "working_dir": str(self.folder),
                    "env_vars": {
                        "NO_ALBUMENTATIONS_UPDATE": "1",
                        "UNCLIP_COMMIT": commit,
                        **self.env,
                    },
                },
            )


def _follow_attempts(send: _Sender, job: str, *, attempts: int, write: Write) -> str:
    current, url = job, send.url
    for attempt in range(1, attempts + 1):
        try:
            state = follow_job(send.client, url, current, write)
            why = reason_to_repeat(state)
        except JobGoneError:  # a restarted head node has forgotten its jobs
            state, why = None, "the head node was restarted"
        if state and state.status == "SUCCEEDED":
            return current
        if state and why is None:
            raise _failed(state, url)
        if attempt < attempts:
            again = f"{job}-{attempt + 1}"
            write(f"{current} failed: {why}. Submitting it again as {again}.\n")
            current = again
            send(current)
    raise SubmitError(
        f"Job {job} failed {attempts} times, the last time because {why}. Finished work stays in "
        "the store: submit the job again to continue, or give more --attempts."
    )


def _failed(state: JobState, url: str) -> SubmitError:
    if state.status == "STOPPED":
        return SubmitError(
            f"Job {state.job_id} was stopped. Finished work stays in the store: "
            "submit it again to continue."
        )
    return SubmitError(
        f"Job {state}. For the reason, see: unclip logs {state.job_id} --address {url}. Finished "
        "work stays in the store."
    )


def _latest(client: JobSubmissionClient, url: str, job: str) -> str:
    """The id of the job's last attempt: `<id>`, `<id>-2`, `<id>-3` and so on."""
    with translated(url):
        known = [str(j.submission_id) for j in client.list_jobs() if j.submission_id]
    pattern = re.compile(rf"{re.escape(job)}(?:-(\d+))?")
    attempts = {int(m[1] or 1): k for k in known if (m := pattern.fullmatch(k))}
    if not attempts:
        listed = ", ".join(sorted(known)[-5:]) or "none"
        raise SubmitError(f"There is no job {job} at {url}. Jobs there: {listed}.")
    return attempts[max(attempts)]


def _new_id(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "job"
    return f"unclip-{safe}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
