"""What goes wrong with a folder of another format."""


class InteropError(ValueError):
    """A folder that is no model of the format, or one that our networks cannot express."""
