"""Errors of reading and writing the formats of other projects."""

from unclip.config import UnclipError


class InteropError(UnclipError):
    """A path that holds no model of the format, or a model that the format cannot express."""
