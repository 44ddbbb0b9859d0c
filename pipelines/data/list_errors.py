"""Errors of URL lists: what is wrong, in which file and line, and a hint."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.core.errors import PipelineError

MAX_SHOWN = 60  # characters of a value


class UrlListError(PipelineError):
    """The list of URLs cannot be read, or lacks columns or rows."""


class ListContentError(Exception):
    """A fault of a list, found by a parser that does not know the name of its file."""

    def __init__(self, problem: str, hint: str, *, place: str = "") -> None:
        """`problem` continues "The URL list x …"; `place` is "" or such as "line 7"."""
        super().__init__(problem)
        self.problem, self.hint, self.place = problem, hint, place

    def explain(self, path: str) -> UrlListError:
        """The error of one paragraph that names the file."""
        where = f"{self.place[0].upper()}{self.place[1:]} of the" if self.place else "The"
        return UrlListError(f"{where} URL list {path} {self.problem}. {self.hint}")


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn a `ListContentError` into a `UrlListError` that names the file."""
    try:
        yield
    except ListContentError as fault:
        raise fault.explain(path) from fault


def shown(value: object) -> str:
    """A value in quotes, without control characters, on one line and not too long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
