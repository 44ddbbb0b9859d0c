import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from pipelines.data.prefetch import prefetch


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def test_closing_the_iterator_stops_its_thread_and_an_error_does_too():
    endless = prefetch(itertools.count, 2)
    assert [next(endless), next(endless)] == [0, 1]
    assert threads() == 1
    endless.close()
    assert threads() == 0

    def fail() -> Iterator[int]:
        yield 1
        raise RuntimeError("in the thread")

    items = prefetch(fail, 2)
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="in the thread"):
        next(items)
    assert threads() == 0


def test_the_thread_works_ahead_and_no_further_than_asked():
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    items = prefetch(numbers, 3)
    assert next(items) == 0
    ends_at = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < ends_at:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(made) == 5  # one taken, three waiting, one in hand
    items.close()


def test_an_iterator_that_ends_ends_the_consumer():
    assert list(prefetch(lambda: iter([1, 2]), 1)) == [1, 2]
