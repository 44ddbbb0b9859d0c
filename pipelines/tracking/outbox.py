"""The outbox: sends records to the tracking server in order, and keeps them while it is down.

While the server answers, a record is sent and forgotten. If a record cannot be sent, it and all
that follow are written to the store, one file each, and sent in the same order later: in this run,
or at the start of the next one. Sending a record twice changes nothing, so a process may be killed
between sending a record and deleting its file. Every call has a time limit.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from pipelines.core.errors import first_line
from pipelines.tracking.spool import Record, SpoolFolder
from pipelines.tracking.time_limit import CallTimeoutError, TimeLimitedCaller

log = logging.getLogger(__name__)

SEND_LIMIT_S, FILE_LIMIT_S, STORE_LIMIT_S = 15.0, 600.0, 10.0  # of one call
STORE_SHARE_S = 2.0  # of the time left for closing: the server gets the rest
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 120.0  # after a failure; doubles each time
MOST_REFUSALS = 3  # of one record by a server that answers, over all runs
T = TypeVar("T")


@dataclass
class Peer:
    """The server or the store: how it is called, and when it may be called again after a failure.

    `clock` gives the time for the pauses between attempts; time limits use the system's clock.
    """

    caller: TimeLimitedCaller
    clock: Callable[[], float]
    error: str | None = None  # of the last call; None if it succeeded
    wait_s: float = FIRST_WAIT_S
    retry_at: float = 0.0

    @property
    def due(self) -> bool:
        """Whether it may be called: it works, or failed long enough ago."""
        return self.error is None or self.clock() >= self.retry_at

    def failed(self, error: BaseException) -> None:
        """Pause, for longer after each failure in a row. A time-out keeps the earlier error."""
        if self.error is None or not isinstance(error, CallTimeoutError):
            self.error = first_line(error)
        self.retry_at = self.clock() + self.wait_s
        self.wait_s = min(2 * self.wait_s, LONGEST_WAIT_S)

    def worked(self) -> None:
        """Forget earlier failures."""
        self.error, self.wait_s = None, FIRST_WAIT_S


class Outbox:
    """Sends records in order. Never raises; calls a server that failed only now and then."""

    def __init__(
        self,
        spool: SpoolFolder,
        *,
        send: Callable[[Record], None],
        answers: Callable[[], bool],  # whether the server is up and takes changes
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spool, self.send, self.answers, self.warn = spool, send, answers, warn
        self.server = Peer(TimeLimitedCaller("tracking-server"), clock)
        self.store = Peer(TimeLimitedCaller("tracking-store"), clock)
        self.waiting: deque[tuple[str | None, Record]] = deque()  # file (None: in memory), record
        self.refused: list[tuple[str | None, Record]] = []  # sent again by `close` and next runs
        self.ends_at: float | None = None  # when `close` must be done, by the system's clock
        self.reported: str | None = None  # the last warning about an outage
        try:
            self.waiting.extend(self._on_store(spool.load))
        except Exception as error:
            log.debug("the records of earlier runs cannot be read", exc_info=True)
            warn(f"Tracking records of earlier runs cannot be read: {first_line(error)}.")

    def post(self, record: Record) -> None:
        """Send the record after all that wait, or keep it for later."""
        log.debug("%s record of run %s", record.kind, record.run)
        self.waiting.append((None, record))
        self.flush()

    def ask(self, question: Callable[[], T]) -> T:
        """The result of a query to the server, within the time limit. May raise anything."""
        return self._on_server(question, SEND_LIMIT_S)

    def flush(self, *, at_once: bool = False) -> None:
        """Send the records that wait. After a failure, only if `at_once` or after a pause."""
        if at_once or self.server.due:
            while self.waiting and self._send_first():
                pass
        if self.waiting:
            if at_once or self.store.due:
                self._keep()
            self._report_outage()
        elif self.reported:
            self.reported = None
            self.warn("The tracking server answers again; all records have been sent.")

    def hurry(self, within_s: float) -> None:
        """From now on, all calls together take at most this many seconds."""
        self.ends_at = time.monotonic() + within_s

    def close(self) -> None:
        """Try once more to send everything. Warns if records are kept for the next run, or lost."""
        self.waiting.extendleft(reversed(self.refused))
        self.refused = []
        self.flush(at_once=True)
        left = [name for name, _ in (*self.waiting, *self.refused)]
        lost = left.count(None)
        if kept := len(left) - lost:
            self.warn(
                f"{_records(kept)} not sent. The store keeps them in {self.spool.url}, and the "
                "next run sends them."
            )
        if lost:
            self.warn(
                f"{_records(lost)} lost: neither the tracking server "
                f"({self.server.error or 'it refused them'}) nor the store "
                f"({self.store.error or 'no time was left'}) takes them."
            )
        if self.store.error is None:
            with contextlib.suppress(Exception):  # the next run cleans up
                self._on_store(self.spool.clean)

    def _send_first(self) -> bool:
        """Whether the first record left the queue: sent, or refused by a server that answers."""
        name, record = self.waiting[0]
        error = self._try(record)
        if error is not None and self._answers(error):
            error = self._try(record)  # the server may have come back in the meantime
            if error is not None and self._answers(error):
                self.waiting.popleft()
                self._refuse(name, record, error)
                return True
        if error is not None:
            log.debug("the server does not take a record", exc_info=error)
            self.server.failed(error)
            return False
        self.server.worked()
        self.waiting.popleft()
        self._forget(name)
        return True

    def _try(self, record: Record) -> Exception | None:
        limit_s = FILE_LIMIT_S if record.kind == "file" else SEND_LIMIT_S
        try:
            self._on_server(lambda: self.send(record), limit_s)
        except Exception as error:  # tracking never stops the work
            return error
        return None

    def _answers(self, error: Exception) -> bool:
        if isinstance(error, CallTimeoutError):
            return False
        try:
            return self._on_server(self.answers, SEND_LIMIT_S)
        except Exception:
            return False

    def _refuse(self, name: str | None, record: Record, error: Exception) -> None:
        """Set aside a record that a server refuses, such as a file that no longer exists."""
        again = replace(record, refusals=record.refusals + 1)
        last = again.refusals >= MOST_REFUSALS
        if not last:
            self.refused.append((self._written(again), again))
        self._forget(name)
        if last or not record.refusals:
            what = record.body.get("path") or record.body.get("file") or record.body.get("name")
            fate = "It is not sent again." if last else "It will be sent again."
            problem = first_line(error)
            self.warn(f"The tracking server refused {what or record.kind}: {problem}. {fate}")

    def _keep(self) -> None:
        """Write the records that are only in memory to the store, up to the first failure."""
        for i, (name, record) in enumerate(self.waiting):
            if name is None:
                self.waiting[i] = (self._written(record), record)
                if self.waiting[i][0] is None:
                    return

    def _written(self, record: Record) -> str | None:
        """The file that keeps the record, or None if the store does not take it."""
        try:
            name = self._on_store(lambda: self.spool.add(record))
        except Exception as error:  # the record stays in memory
            self.store.failed(error)
            return None
        self.store.worked()
        return name

    def _forget(self, name: str | None) -> None:
        if name is None:
            return
        try:
            self._on_store(lambda: self.spool.remove(name))
        except Exception as error:  # it will be sent again, which changes nothing
            log.debug("%s cannot be deleted: %s", name, error)

    def _report_outage(self) -> None:
        """Warn once when the server stops answering, and once when the store fails as well."""
        state = "both" if self.store.error else "server"
        if state == self.reported or self.ends_at is not None:
            return
        self.reported = state
        if state == "server":
            self.warn(
                f"The tracking server does not answer ({self.server.error}). The run continues; "
                f"tracking records are kept in {self.spool.url} and sent later."
            )
        else:
            self.warn(
                f"Neither the tracking server ({self.server.error}) nor the store "
                f"({self.store.error}) takes tracking records. The run continues; the records wait "
                "in memory."
            )

    def _on_server(self, function: Callable[[], T], limit_s: float) -> T:
        left_s = self._left_s() - STORE_SHARE_S
        return self.server.caller.call(function, within_s=min(limit_s, left_s))

    def _on_store(self, function: Callable[[], T]) -> T:
        return self.store.caller.call(function, within_s=min(STORE_LIMIT_S, self._left_s()))

    def _left_s(self) -> float:
        return float("inf") if self.ends_at is None else self.ends_at - time.monotonic()


def _records(count: int) -> str:
    return f"{count} tracking record{' is' if count == 1 else 's are'}"
