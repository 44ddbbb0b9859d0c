"""Errors that a user can act on: what, where, what was given, and the way out, in one paragraph."""


class PipelineError(Exception):
    """Base of every error that is shown without a traceback."""
