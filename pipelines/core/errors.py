"""Errors that a user can act on: what failed, where, what was given, and what to do."""


class PipelineError(Exception):
    """Base of every error that is shown without a traceback."""


class WorkLostError(PipelineError):
    """Workers or the cluster were lost; the same work can succeed when it is tried again."""
