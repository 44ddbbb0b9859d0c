"""Errors that a user can act on: what failed, where, the value given, and a hint."""


class PipelineError(Exception):
    """Base of every error that is shown without a traceback."""


class AbortedError(PipelineError):
    """The run stopped while stages were still at work, so the process has to end at once.

    Threads of those stages may wait for workers that no longer exist: end with `os._exit` after
    the message is printed.
    """


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's message, without its full stop; its type where it has none."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return line if len(line) <= limit else line[: limit - 1] + "…"
