"""The networks of Karlo, a public unCLIP, built from this project's blocks.

They differ from those of the paper: CLIP's frozen text tower encodes the captions, image embeddings
keep CLIP's norm, the prior standardises them by a stored mean and standard deviation, and the
upsampler has a second network for its last step.
"""

from unclip.models.karlo.decoder import KarloDecoder, KarloDecoderConfig
from unclip.models.karlo.prior import KarloPrior, KarloPriorConfig
from unclip.models.karlo.text import ClipText, ClipTextConfig
from unclip.models.karlo.upsampler import KarloUpsampler, KarloUpsamplerConfig

__all__ = [
    "ClipText",
    "ClipTextConfig",
    "KarloDecoder",
    "KarloDecoderConfig",
    "KarloPrior",
    "KarloPriorConfig",
    "KarloUpsampler",
    "KarloUpsamplerConfig",
]
