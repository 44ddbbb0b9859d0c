"""Pictures changed through their latents (sections 3 and 4 of the paper), by a trained cascade.

A picture is encoded to the pair (z_i, x_T): what CLIP sees of it, and all the rest. Every function
takes the cascade first and returns pictures of the decoder's size; `enlarge` makes them large.
"""

from unclip.manipulate.inpainting import inpaint, shrink_mask
from unclip.manipulate.latents import (
    Latent,
    decode,
    encode,
    enlarge,
    interpolate,
    pca_reconstruct,
    slerp,
    text_diff,
    to_pixels,
    variations,
)
from unclip.manipulate.probes import (
    CONDITIONS,
    class_probabilities,
    importance_of_the_prior,
    typographic_attack,
)

__all__ = [
    "CONDITIONS",
    "Latent",
    "class_probabilities",
    "decode",
    "encode",
    "enlarge",
    "importance_of_the_prior",
    "inpaint",
    "interpolate",
    "pca_reconstruct",
    "shrink_mask",
    "slerp",
    "text_diff",
    "to_pixels",
    "typographic_attack",
    "variations",
]
