"""A cascade with its CLIP: captions and Pillow images in, tensors out."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, S image size

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unclip import manipulate
from unclip.captions import beginning
from unclip.clip.stored import StoredClip
from unclip.clip.tokenizer import cut, shortened, simple_tokenizer
from unclip.config import ConfigError
from unclip.generation import Cascade, Generated
from unclip.images import to_rgb
from unclip.models import KarloDecoder
from unclip.samplers import Generators

if TYPE_CHECKING:
    from unclip.clip.frozen import FrozenClip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CascadeWithClip:
    """A cascade and the CLIP that it was trained with."""

    cascade: Cascade
    clip: Union["FrozenClip", StoredClip, None]  # None: only Karlo can encode captions

    def __post_init__(self) -> None:
        """Refuse a CLIP whose width differs from the decoder's."""
        width = self.cascade.decoder.config.embed_dim
        if self.clip is not None and self.clip.width != width:
            raise ConfigError(
                f"clip {self.clip.name} makes embeddings of width {self.clip.width}, but the "
                f"decoder expects {width}; take both from the same training"
            )

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Tokenize captions for the models' own text encoders; (B, L) int64 padded with 0."""
        tokenizer = simple_tokenizer(self.cascade.decoder.config.text_encoder.context_length)
        return tokenizer([shortened(caption) for caption in captions]).to(self.cascade.device)

    def warn_if_cut(self, captions: Sequence[str]) -> None:
        """Log a warning for each different caption of which the models read only the beginning."""
        lengths = {"the models read": self.cascade.decoder.config.text_encoder.context_length}
        if self.clip is not None:
            lengths["the CLIP reads"] = self.clip.context_length
        who, length = min(lengths.items(), key=lambda item: item[1])
        for caption in dict.fromkeys(captions):
            if found := cut(caption, length):
                log.warning(
                    "The caption %r has %d tokens, of which %s the first %d. Left out: %r",
                    beginning(caption),
                    found.tokens,
                    who,
                    found.read,
                    found.left_out,
                )

    @torch.no_grad()
    def text_embeds(self, captions: Sequence[str]) -> Tensor:
        """CLIP embeddings of captions; (B, E) unit-norm.

        Without a CLIP, Karlo's text tower is used; other models raise `ConfigError`.
        """
        if self.clip is not None:
            return self.clip.encode_texts(captions)
        if not isinstance(self.cascade.decoder, KarloDecoder):
            raise ConfigError(
                "these models came without clip/, which encodes captions; add that folder"
            )
        encoded = self.cascade.decoder.text_encoder(self.tokenize(captions))
        return F.normalize(encoded.text_embeds, dim=-1)

    def image_embeds(self, images: Sequence[Image.Image] | Tensor) -> Tensor:
        """CLIP embeddings of images, with the norm that the decoder expects; (B, E).

        images: of any size, or a tensor as `FrozenClip.encode_images` takes it.
        """
        image_embeds, norms = self.image_tower.encode_images_and_norms(images)
        if self.cascade.decoder.config.unit_norm:
            return image_embeds
        return image_embeds * norms[:, None]

    @property
    def image_tower(self) -> "FrozenClip":
        """The CLIP, to encode images; raises `ConfigError` if there is none."""
        if self.clip is None:
            raise ConfigError(
                "these models came without CLIP's image tower, so they cannot encode images; "
                "import the folder of the image variation pipeline too"
            )
        return self.clip.whole if isinstance(self.clip, StoredClip) else self.clip

    def generate(self, captions: Sequence[str], *, generator: Generators) -> Generated:
        """Generate an image for each caption, at each size; see `Generated` for the shapes."""
        return self.cascade.generate(
            self.tokenize(captions), self.text_embeds(captions), generator=generator
        )

    def encode(self, image: Image.Image) -> manipulate.Latent:
        """(z_i, x_T) of an image, of one row each."""
        if not isinstance(image, Image.Image):
            raise ConfigError(f"{image!r} is not an image; open it with PIL.Image.open first")
        pixels = manipulate.to_pixels(self.cascade, [image])
        return manipulate.encode(self.cascade, pixels, self.image_embeds([image]))

    def paint(
        self,
        image: Image.Image,
        mask: Image.Image,
        caption: str | None,
        *,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Inpaint once for each generator, where the mask is not black; (B, 3, S, S).

        Without a caption, z_i is that of the rest of the image; with one, the prior's.
        """
        if mask.size != image.size:
            raise ConfigError(
                f"the mask has {mask.width}x{mask.height} pixels and the image {image.width}x"
                f"{image.height}; give a mask of the image's size"
            )
        count, size, device = len(generators), self.cascade.sizes[-1], self.cascade.device
        tokens: Tensor | None = None
        if caption is None:
            kept = manipulate.without(to_rgb(image), mask.convert("L"))
            image_embeds = self.image_embeds([kept]).expand(count, -1)
        else:
            tokens = self.tokenize([caption] * count)
            image_embeds = self.cascade.sample_image_embeds(
                tokens, self.text_embeds([caption] * count), generator=generators
            )
        pixels = manipulate.to_tensor(manipulate.fit_image(image, size))[None]
        return manipulate.inpaint(
            self.cascade,
            pixels.expand(count, -1, -1, -1).to(device),
            manipulate.fit_mask(mask.convert("L"), size).expand(count, -1, -1, -1).to(device),
            image_embeds,
            tokens,
            generator=generators,
        )
