"""Reading and writing models in the formats of other projects."""

from unclip.interop.diffusers_format import read_pipeline, write_pipeline
from unclip.interop.errors import InteropError
from unclip.interop.karlo_pipeline import KarloPipeline
from unclip.interop.karlo_sampling import KarloCascade, KarloImages, KarloSampling

__all__ = [
    "InteropError",
    "KarloCascade",
    "KarloImages",
    "KarloPipeline",
    "KarloSampling",
    "read_pipeline",
    "write_pipeline",
]
