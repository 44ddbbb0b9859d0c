"""The error of import and export."""

from unclip.config import UnclipError


class InteropError(UnclipError):
    """A path without a model in the format, or a model that the format cannot express."""
