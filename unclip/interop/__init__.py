"""Import and export of models in the formats of other projects."""

from unclip.interop.diffusers_format import KARLO_SAMPLING, read_pipeline, write_pipeline
from unclip.interop.errors import InteropError
from unclip.interop.exportable import merge

__all__ = ["KARLO_SAMPLING", "InteropError", "merge", "read_pipeline", "write_pipeline"]
