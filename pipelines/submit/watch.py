"""Watches a job on a cluster: its state, its output, and whether another attempt makes sense."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.job_submission import JobSubmissionClient

from pipelines.core.errors import EXIT_WORK_LOST
from pipelines.submit.client import JobGoneError, SubmitError, translated

log = logging.getLogger(__name__)

UNREACHABLE_S = 300.0  # how long a head node may fail to answer
POLL_S = 1.0
EXIT_INTERRUPTED = 130  # of a driver that was interrupted
# Ray's error types for a driver that was lost with its node.
LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")

Write = Callable[[str], None]


@dataclass(frozen=True)
class JobState:
    """The state of a job as the cluster reports it."""

    job_id: str  # of the latest attempt
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    exit_code: int | None  # of the driver, if it ended by itself
    error_type: str | None  # Ray's, of a job that failed

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    def __str__(self) -> str:
        code = "" if self.exit_code is None else f", exit code {self.exit_code}"
        kind = f", {self.error_type}" if self.error_type and self.exit_code is None else ""
        return f"{self.job_id}: {self.status}{code}{kind}"


def job_state(client: JobSubmissionClient, url: str, job: str) -> JobState:
    """The job's state. Raises `JobGoneError` if the cluster does not know the job."""
    with translated(url):
        details: Any = client.get_job_info(job)
    return JobState(job, details.status.value, details.driver_exit_code, details.error_type)


def reason_to_repeat(state: JobState) -> str | None:
    """Why another attempt may succeed; None if it would fail in the same way."""
    if state.status != "FAILED":
        return None
    if state.error_type in LOST:
        return "the driver's node was lost"
    code = state.exit_code
    if code == EXIT_WORK_LOST:
        return "it lost workers or its connection to the cluster"
    if code is not None and code < 0:
        return f"the driver was killed by signal {-code}"
    if code is not None and code > 128 and code != EXIT_INTERRUPTED:
        return f"the driver was killed by signal {code - 128}"
    return None


def follow(client: JobSubmissionClient, url: str, job: str, write: Write) -> JobState:
    """Write a job's output until it ends, and reconnect if the connection is lost.

    Raises `JobGoneError`, or `SubmitError` after `UNREACHABLE_S` without an answer.
    """
    tail = _Tail(client, job, write)
    answered_at = time.monotonic()
    while True:
        try:
            with translated(url):
                asyncio.run(tail.read())
            state = job_state(client, url, job)
            if state.ended:
                return state
            answered_at = time.monotonic()
        except JobGoneError:
            raise
        except SubmitError as error:
            log.debug("%s", error)
            if time.monotonic() - answered_at > UNREACHABLE_S:
                raise SubmitError(
                    f"{url} has not answered for {UNREACHABLE_S:.0f} s. The job may still run: "
                    f"unclip status {job} --address {url}. ({error})"
                ) from error
        time.sleep(POLL_S)


class _Tail:
    """A job's output. Writes each character once, even if the connection is lost."""

    def __init__(self, client: JobSubmissionClient, job: str, write: Write) -> None:
        self.client, self.job, self.write = client, job, write
        self.written = 0

    async def read(self) -> None:
        """Write new output until the job ends. Each connection starts with the first line."""
        seen = 0
        async for text in self.client.tail_job_logs(self.job):
            fresh = text[max(0, self.written - seen) :]
            seen += len(text)
            if fresh:
                self.write(fresh)
                self.written = seen
