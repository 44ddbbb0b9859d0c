"""Calls with a time limit, for servers and file systems that may block for minutes."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")


class CallTimeoutError(Exception):
    """A call that did not return in time. Its thread continues, and may still have an effect."""


class TimeLimitedCaller:
    """Runs calls one at a time, each in a daemon thread, and waits a limited time for each.

    A call that exceeds its limit is abandoned, not stopped. Until it returns, no other call starts,
    so that calls take effect in order. A daemon thread does not delay the end of the process.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._free = threading.Lock()

    def call(self, function: Callable[[], T], *, within_s: float) -> T:
        """The function's result. Raises `CallTimeoutError`, or what the function raises."""
        deadline = time.monotonic() + within_s
        if within_s <= 0 or not self._free.acquire(timeout=within_s):
            raise CallTimeoutError(f"no answer within {max(0, within_s):.0f} s")
        answer: Future[T] = Future()
        threading.Thread(
            target=self._run, args=(function, answer), name=self.name, daemon=True
        ).start()
        if not wait([answer], timeout=max(0, deadline - time.monotonic())).done:
            raise CallTimeoutError(f"no answer within {within_s:.0f} s")
        return answer.result()

    def _run(self, function: Callable[[], T], answer: "Future[T]") -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)
        finally:
            self._free.release()
