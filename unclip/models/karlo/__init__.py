"""The networks of Karlo, the public unCLIP, in the project's own blocks.

They differ from the paper's: the captions are read by CLIP's frozen text tower, embeddings keep
CLIP's norm, the prior's are standardised by a stored mean and std, the decoder learns its variance,
and the upsampler has a second network for its last step.
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
