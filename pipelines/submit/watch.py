"""Watching a job on a cluster: its state, its output as it comes, and whether its driver died."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.submit.client import JobGoneError, SubmitError, translated

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

UNREACHABLE_S = 300.0  # how long a watcher bears a head node that does not answer
POLL_S = 1.0
INTERRUPTED = 130  # exit code of a driver that somebody interrupted
# What Ray says of a driver that went down with its node; other failures would come again.
LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")

Write = Callable[[str], None]


@dataclass(frozen=True)
class JobState:
    """What the cluster says of a job."""

    job_id: str  # of the latest attempt
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    exit_code: int | None  # of the driver, where it ended by itself
    error_type: str | None  # Ray's word for a job that failed

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    def __str__(self) -> str:
        code = "" if self.exit_code is None else f", exit code {self.exit_code}"
        kind = f", {self.error_type}" if self.error_type and self.exit_code is None else ""
        return f"{self.job_id}: {self.status}{code}{kind}"


def job_state(client: "JobSubmissionClient", url: str, job: str) -> JobState:
    """Ask for the state; raises `JobGoneError` where the cluster does not know the job."""
    with translated(url):
        details: Any = client.get_job_info(job)
    return JobState(job, details.status.value, details.driver_exit_code, details.error_type)


def driver_died(state: JobState) -> str | None:
    """Why another attempt may do better, or None where it would fail in the same way."""
    if state.status != "FAILED":
        return None
    if state.error_type in LOST:
        return "the node that it ran on was lost"
    code = state.exit_code
    if code is not None and code < 0:
        return f"it was killed by signal {-code}"
    if code is not None and code > 128 and code != INTERRUPTED:
        return f"it was killed by signal {code - 128}"
    return None


def follow(client: "JobSubmissionClient", url: str, job: str, write: Write) -> JobState:
    """Write a job's output until it ends, over lost connections; raises `JobGoneError`."""
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
            if time.monotonic() - answered_at > UNREACHABLE_S:
                raise SubmitError(
                    f"{url} has not answered for {UNREACHABLE_S:.0f} s. The job may still run; see "
                    f"unclip status {job} --address {url}. ({error})"
                ) from error
        time.sleep(POLL_S)


class _Tail:
    """A job's output, each character written once however often the connection breaks."""

    def __init__(self, client: "JobSubmissionClient", job: str, write: Write) -> None:
        self.client, self.job, self.write = client, job, write
        self.written = 0

    async def read(self) -> None:
        """Write what is new until the job ends; every connection begins with the first line."""
        seen = 0
        async for text in self.client.tail_job_logs(self.job):
            fresh = text[max(0, self.written - seen) :]
            seen += len(text)
            if fresh:
                self.write(fresh)
                self.written = seen
