"""Image manipulation in the latent space of a trained cascade (sections 3 and 4 of the paper).

The latent of an image is (z_i, x_T): its CLIP embedding, and the noise that encodes everything
else. The manipulations take the cascade first and return images of the decoder's size; `enlarge`
passes those through the upsamplers. `inpaint` works at all sizes and returns the largest.
"""

from unclip.manipulate.inpainting import fit_image, fit_mask, inpaint, shrink_mask, without
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
    to_tensor,
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
    "fit_image",
    "fit_mask",
    "importance_of_the_prior",
    "inpaint",
    "interpolate",
    "pca_reconstruct",
    "shrink_mask",
    "slerp",
    "text_diff",
    "to_pixels",
    "to_tensor",
    "typographic_attack",
    "variations",
    "without",
]
