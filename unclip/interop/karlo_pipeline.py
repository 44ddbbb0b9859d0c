"""Karlo whole: from words and pictures to images."""

# B batch, L tokens of the captions, E width of the CLIP embeddings

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import open_clip
import torch
from torch import Tensor

from unclip.clip import FrozenClip, Images
from unclip.config import ConfigError
from unclip.interop.karlo_sampling import KarloCascade, KarloImages


@dataclass(frozen=True)
class KarloPipeline:
    """The models, CLIP where its image tower came along, and its tokenizer."""

    cascade: KarloCascade
    clip: FrozenClip | None

    @cached_property
    def _tokenizer(self) -> open_clip.SimpleTokenizer:
        length = self.cascade.decoder.config.text_encoder.context_length
        return open_clip.SimpleTokenizer(context_length=length)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions to tokens (B, L) int64, cut to the context length and padded with 0."""
        tokens: Tensor = self._tokenizer(list(captions))
        return tokens.to(self.cascade.device)

    def generate(self, captions: Sequence[str], *, generator: torch.Generator) -> KarloImages:
        """An image for each caption."""
        return self.cascade.generate(self.tokenize(captions), generator=generator)

    @torch.no_grad()
    def vary(self, images: Images, *, generator: torch.Generator) -> KarloImages:
        """Another image of what each picture shows; images as `FrozenClip.encode_images` has it."""
        image_embeds = self.encode_images(images)
        small = self.cascade.decode(image_embeds, None, generator=generator)
        large = self.cascade.upsample(small, generator=generator)
        return KarloImages(image_embeds, small, large)

    @torch.no_grad()
    def encode_images(self, images: Images) -> Tensor:
        """CLIP's image embeddings as Karlo reads them: not normalised; (B, E)."""
        if self.clip is None:
            raise ConfigError(
                "this Karlo came without CLIP's image tower, so it cannot read pictures; read the "
                "folder of its image variation pipeline"
            )
        image_embeds: Tensor = self.clip.model.encode_image(self.clip.preprocess(images))  # type: ignore[operator]
        return image_embeds.float()
