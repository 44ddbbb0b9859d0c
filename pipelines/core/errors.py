"""The base of all errors that are shown to the user, and the exit codes of the command line."""

EXIT_ERROR = 2  # an error that the user must fix: another attempt would fail in the same way
EXIT_WORK_LOST = 75  # EX_TEMPFAIL: workers or the cluster were lost; another attempt may succeed


class PipelineError(Exception):
    """Base of every error that is shown without a traceback.

    Its message is one paragraph: what is wrong, where, the value that was given, and a hint.
    """

    exit_code: int = EXIT_ERROR  # of the command that fails with this error


def first_line(error: BaseException) -> str:
    """The first line of the error's message without a final full stop, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class WorkLostError(PipelineError):
    """Workers or the cluster were lost; the same work can succeed when it is tried again."""

    exit_code = EXIT_WORK_LOST


class AbortedError(PipelineError):
    """The run stopped while stages were still at work, so the process has to end at once.

    Threads of those stages may wait for workers that no longer exist: end with `os._exit` after
    the message is printed.
    """
