"""What the parts of a cascade know: figure 8 of the paper and the probe of figure 6."""

# B captions or pictures, E width of the CLIP embeddings, L context length, S decoder's image size
# K classes

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.generation import Cascade
from unclip.manipulate.latents import Latent, as_long_as, variations
from unclip.samplers import Generators, randn
from unclip.validation import check_embeds

CONDITIONS = {  # name → what the decoder is told beside the caption
    "caption": "the caption alone: the null embedding",
    "text embedding": "z_t of the caption where z_i belongs",
    "prior": "z_i that the prior draws for the caption",
    "true embedding": "z_i of a true picture",
}


def importance_of_the_prior(
    cascade: Cascade,
    tokens: Tensor,
    text_embeds: Tensor,
    image_embeds: Tensor | None = None,
    *,
    generator: Generators,
) -> dict[str, Tensor]:
    """One decoder, told of a picture in up to four ways (section 5.1, figure 8), noise fixed.

    tokens: (B, L) int64; text_embeds: (B, E); image_embeds: (B, E) of true pictures, where there
    are some. Returns a picture (B, 3, S, S) in [-1, 1] for each name of `CONDITIONS`. The zero
    embedding of the paper is here the learned null, which training had in its place.
    """
    size = cascade.decoder.config.image_size
    noise = randn((len(tokens), 3, size, size), generator=generator, device=cascade.device)
    predicted = cascade.sample_image_embeds(tokens, text_embeds, generator=generator)
    message = {
        "caption": None,
        "text embedding": as_long_as(predicted, text_embeds),
        "prior": predicted,
    }
    if image_embeds is not None:
        message["true embedding"] = image_embeds
    return {
        name: cascade.decode(embeds, tokens, generator=generator, noise=noise)
        for name, embeds in message.items()
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
    """What CLIP takes a picture for, and what the decoder makes of the same embedding.

    Of a picture that carries a misleading word, CLIP may name the word while the variations show
    what is to be seen (section 3.3, figure 6). latent: of one picture; class_embeds: (K, E).
    Returns the classes' probabilities (K,) and variations (count, 3, S, S).
    """
    probabilities = class_probabilities(latent.image_embeds, class_embeds, logit_scale=logit_scale)
    varied = variations(cascade, latent, count=count, eta=eta, generator=generator)
    return probabilities[0], varied


def class_probabilities(
    image_embeds: Tensor, class_embeds: Tensor, *, logit_scale: float
) -> Tensor:
    """Zero-shot classification (CLIP, section 3.1.2); image_embeds: (B, E) of any length.

    class_embeds: (K, E) unit-norm. Returns (B, K), whose rows sum to 1.
    """
    check_embeds("class_embeds", class_embeds, image_embeds.shape[-1])
    directions = F.normalize(image_embeds, dim=-1)
    similarity = torch.einsum("be,ke->bk", directions, class_embeds)
    return (logit_scale * similarity).softmax(dim=-1)
