"""Probes of a cascade: importance of the prior (figure 8) and typographic attacks (figure 6)."""

# B captions or images, E width of the CLIP embeddings, L context length, S decoder's image size
# K classes

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.generation import Cascade
from unclip.manipulate.latents import Latent, as_long_as, variations
from unclip.samplers import Generators, randn
from unclip.validation import check_embeds

CONDITIONS = {  # name -> the decoder's condition besides the caption
    "caption": "the null embedding: the caption alone",
    "text embedding": "z_t of the caption in place of z_i",
    "prior": "z_i that the prior samples for the caption",
    "true embedding": "z_i of the true image",
}


def importance_of_the_prior(
    cascade: Cascade,
    tokens: Tensor,
    text_embeds: Tensor,
    image_embeds: Tensor | None = None,
    *,
    generator: Generators,
) -> dict[str, Tensor]:
    """Decode each caption under up to four conditions from the same noise (section 5.1, figure 8).

    tokens: (B, L) int64; text_embeds: (B, E); image_embeds: (B, E) of the true images, if known.
    Returns images (B, 3, S, S) in [-1, 1] by the names of `CONDITIONS`; "true embedding" only if
    image_embeds are given. The paper passes a zero embedding with the caption alone; this passes
    the learned null embedding, because training did.
    """
    size = cascade.decoder.config.image_size
    noise = randn((len(tokens), 3, size, size), generator=generator, device=cascade.device)
    predicted = cascade.sample_image_embeds(tokens, text_embeds, generator=generator)
    conditions = {
        "caption": None,
        "text embedding": as_long_as(predicted, text_embeds),
        "prior": predicted,
    }
    if image_embeds is not None:
        conditions["true embedding"] = image_embeds
    return {
        name: cascade.decode(embeds, tokens, generator=generator, noise=noise)
        for name, embeds in conditions.items()
    }


def typographic_attack(
    cascade: Cascade,
    latent: Latent,
    class_embeds: Tensor,
    *,
    logit_scale: float,
    count: int,
    eta: float,
    generator: Generators,
) -> tuple[Tensor, Tensor]:
    """CLIP's classification of an image, and variations decoded from the same embedding.

    If the image carries a misleading word, CLIP may classify it by the word although the variations
    still show the object (section 4, figure 6). latent: of one image; class_embeds: (K, E)
    unit-norm. Returns the class probabilities (K,) and the variations (count, 3, S, S).
    """
    probabilities = class_probabilities(latent.image_embeds, class_embeds, logit_scale=logit_scale)
    varied = variations(cascade, latent, count=count, eta=eta, generator=generator)
    return probabilities[0], varied


def class_probabilities(
    image_embeds: Tensor, class_embeds: Tensor, *, logit_scale: float
) -> Tensor:
    """Zero-shot classification (CLIP, section 3.1.2); image_embeds: (B, E) of any norm.

    class_embeds: (K, E) unit-norm. Returns (B, K), whose rows sum to 1.
    """
    check_embeds("class_embeds", class_embeds, image_embeds.shape[-1])
    directions = F.normalize(image_embeds, dim=-1)
    similarity = torch.einsum("be,ke->bk", directions, class_embeds)
    return (logit_scale * similarity).softmax(dim=-1)
