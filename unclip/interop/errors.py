"""What goes wrong with a folder of another format."""

from unclip.config import UnclipError


class InteropError(UnclipError):
    """A folder that is no model of the format, or a model that the format cannot express."""
