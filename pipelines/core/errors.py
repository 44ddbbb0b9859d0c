"""Errors that a user can act on: what failed, where, with which value, and a hint, in a paragraph."""


class PipelineError(Exception):
    """Base of every error that is shown without a traceback."""


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's message, without its full stop; its type where it has none."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return line if len(line) <= limit else line[: limit - 1] + "…"
