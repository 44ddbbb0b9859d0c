"""Records on their way to the tracking server: sent at once, or kept until it answers again.

A record is small and JSON-able. While the server answers, a record is sent and forgotten. When a
record cannot be sent, it and all that follow are written to the store, one file each, and sent in
the same order later: in this run, or at the start of the next one. Every record can be sent twice
without harm, so a process may be killed between sending a record and forgetting it.
"""

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fsspec.core import url_to_fs

from pipelines.core.store import Folder

FIRST_WAIT_S = 5.0  # after a failure; doubles up to the longest, so that a dead server costs little
LONGEST_WAIT_S = 120.0
MOST_REFUSALS = 3  # of one record by a server that answers, over all runs


@dataclass(frozen=True)
class Record:
    """One thing to tell the server about a run, which is named by an id of our own."""

    kind: str
    run: str
    body: Mapping[str, Any]
    refusals: int = 0


class SpoolFolder:
    """Records that wait, as files of the store in the order in which they were made."""

    def __init__(self, url: str) -> None:
        self.folder = Folder(url)
        self.session = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"  # later runs sort after it
        self.count = 0

    def add(self, record: Record) -> str:
        """Keep a record; returns the name of its file."""
        self.count += 1
        name = f"{self.session}-{self.count:08d}.json"
        self.folder.write_json(name, asdict(record))
        return name

    def remove(self, name: str) -> None:
        """Forget a record; another run that sent the same one may have been faster."""
        fs, path = url_to_fs(self.folder.file(name))
        if fs.exists(path):
            fs.rm_file(path)

    def load(self) -> list[tuple[str, Record]]:
        """What earlier runs left, the oldest first; a file that cannot be read is left out."""
        found = []
        for name in self.folder.files():
            try:
                found.append((name, Record(**self.folder.read_json(name))))
            except (TypeError, json.JSONDecodeError, FileNotFoundError):
                continue
        return found


class Outbox:
    """Sends records in order. Never raises, and tries a server that failed only now and then."""

    def __init__(
        self,
        spool: SpoolFolder,
        *,
        send: Callable[[Record], None],
        answers: Callable[[], bool],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spool, self.send, self.answers = spool, send, answers
        self.warn, self.clock = warn, clock
        self.waiting: deque[tuple[str | None, Record]] = deque()  # file (None: not kept), record
        self.refused: list[tuple[str | None, Record]] = []  # tried again by `close` and next runs
        self.retry_at, self.wait_s = 0.0, FIRST_WAIT_S
        self.out = False  # the server did not answer the last time
        self.spool_failed = False
        try:
            self.waiting.extend(spool.load())
        except Exception as error:
            self._spool_fails(error)

    def post(self, record: Record) -> None:
        """Send the record after all that wait, or keep it."""
        self.waiting.append((None, record))
        self.flush()

    def flush(self, *, at_once: bool = False) -> None:
        """Send what waits, unless the server failed a moment ago; `at_once` asks it anyway."""
        if at_once or self.clock() >= self.retry_at:
            while self.waiting and self._send_first():
                pass
        if self.waiting:
            self._keep()
        elif self.out:
            self.out, self.wait_s = False, FIRST_WAIT_S
            self.warn("The tracking server answers again; what was kept has been sent.")

    def close(self) -> None:
        """Try once more to send everything, and say what stays for the next run."""
        self.waiting.extend(self.refused)
        self.refused = []
        self.flush(at_once=True)
        left = len(self.waiting) + len(self.refused)
        if left:
            self.warn(
                f"{left} records for the tracking server could not be sent. They are kept in "
                f"{self.spool.folder.url} and sent when the next run starts."
            )

    def _send_first(self) -> bool:
        """Whether the first record left the queue: sent, or refused by a server that answers."""
        name, record = self.waiting[0]
        error = self._try(record)
        if error is not None and self.answers():
            error = self._try(record)  # the server may have come back since it was asked
            if error is not None and self.answers():
                self.waiting.popleft()
                self._refuse(name, record, error)
                return True
        if error is not None:
            self._failed(error)
            return False
        self.waiting.popleft()
        self._forget(name)
        return True

    def _try(self, record: Record) -> Exception | None:
        try:
            self.send(record)
        except Exception as error:  # tracking never stops the work
            return error
        return None

    def _failed(self, error: Exception) -> None:
        if not self.out:
            self.warn(
                f"The tracking server does not answer ({_first_line(error)}). The work goes on; "
                f"what cannot be sent is kept in {self.spool.folder.url} and sent later."
            )
        self.out = True
        self.retry_at = self.clock() + self.wait_s
        self.wait_s = min(2 * self.wait_s, LONGEST_WAIT_S)

    def _refuse(self, name: str | None, record: Record, error: Exception) -> None:
        """Set aside what a server that answers will not take, such as a file that is gone."""
        self._forget(name)
        again = replace(record, refusals=record.refusals + 1)
        last = again.refusals >= MOST_REFUSALS
        if not last:
            self.refused.append((self._written(again), again))
        if last or not record.refusals:
            fate = "It is given up." if last else "It is tried again later."
            what = record.body.get("path") or record.body.get("name") or record.kind
            self.warn(f"The tracking server refused {what}: {_first_line(error)}. {fate}")

    def _keep(self) -> None:
        """Write what waits in memory alone: the end of the queue, since all before it is kept."""
        fresh: list[Record] = []
        while self.waiting and self.waiting[-1][0] is None:
            fresh.append(self.waiting.pop()[1])
        for record in reversed(fresh):
            self.waiting.append((self._written(record), record))

    def _written(self, record: Record) -> str | None:
        try:
            return self.spool.add(record)
        except Exception as error:  # it stays in memory
            self._spool_fails(error)
            return None

    def _forget(self, name: str | None) -> None:
        if name is None:
            return
        try:
            self.spool.remove(name)
        except Exception as error:  # it will be sent again, which changes nothing
            self._spool_fails(error)

    def _spool_fails(self, error: Exception) -> None:
        if not self.spool_failed:
            self.warn(f"Tracking records cannot be kept: {_first_line(error)}.")
        self.spool_failed = True


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return line if len(line) <= 200 else line[:199] + "…"
