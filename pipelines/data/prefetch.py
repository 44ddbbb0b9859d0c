"""Run an iterator in a thread, ahead of its consumer."""

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

log = logging.getLogger(__name__)

POLL_S = 0.1  # while the queue is full, how often the producer checks for the consumer's end


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


def prefetch(make: Callable[[], Iterator[Item]], ahead: int) -> Generator[Item, None, None]:
    """The items of an iterator that runs in a thread; at most `ahead` of them wait.

    Closing the generator ends the thread. An error in the iterator is raised by the generator.
    """
    ready: queue.Queue[Item | _Ended] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: Item | _Ended) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=POLL_S)
                return
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in make():
                put(item)
                if stop.is_set():
                    return
            put(_Ended(None))
        except BaseException as error:
            log.debug("the prefetching thread failed", exc_info=True)
            put(_Ended(error))  # the consumer raises it

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _Ended):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()
        thread.join()
