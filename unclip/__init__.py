"""unCLIP (Ramesh et al. 2022): models, training and sampling, usable without `pipelines`.

`UnclipPipeline` is imported on first use, because torch takes seconds to import.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unclip.output import Images
    from unclip.pipeline import UnclipPipeline

__all__ = ["Images", "UnclipPipeline"]


def __getattr__(name: str) -> Any:
    if name == "UnclipPipeline":
        from unclip.pipeline import UnclipPipeline

        return UnclipPipeline
    if name == "Images":
        from unclip.output import Images

        return Images
    raise AttributeError(f"module 'unclip' has no attribute {name!r}")
