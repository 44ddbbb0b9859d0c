"""An iterator that works ahead of its consumer, in a thread."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

POLL_S = 0.1


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


def prefetch(make: Callable[[], Iterator[Item]], ahead: int) -> Generator[Item, None, None]:
    """The items of an iterator that runs in a thread, at most `ahead` of them waiting."""
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
            put(_Ended(error))  # raised again by the consumer

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
