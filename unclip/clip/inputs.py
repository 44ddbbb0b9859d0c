"""From images and captions to a CLIP's inputs: the work before the model, picklable without it."""

# B batch, S image side, L text tokens

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize, ToTensor

from unclip.clip.tokenizer import Tokenizer, shortened
from unclip.images import to_rgb


@dataclass(frozen=True)
class ClipInputs:
    """Resizes images and tokenizes captions as one CLIP needs them.

    It holds no weights, so it can be sent to processes that prepare inputs for the model.
    """

    resize: Callable[[Image.Image], Image.Image]  # RGB of any size to RGB of S x S pixels
    tokenizer: Tokenizer
    image_size: int

    def pixels(self, images: Iterable[Image.Image]) -> Tensor:
        """Images of any size as (B, 3, S, S) uint8; `FrozenClip.encode_images` takes them.

        Images that are made one by one are never all in memory at their full size.
        """
        resized = [np.asarray(self.resize(to_rgb(image))) for image in images]  # each (S, S, 3)
        batch = np.empty((len(resized), 3, self.image_size, self.image_size), np.uint8)
        for pixels, image in zip(batch, resized, strict=True):
            pixels[:] = image.transpose(2, 0, 1)
        return torch.from_numpy(batch)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions as (B, L) int64; longer ones are truncated to L."""
        return self.tokenizer([shortened(caption) for caption in captions])


def split(preprocess: Compose) -> tuple[Compose, Normalize]:
    """The part of open_clip's preprocessing that works on images, and the normalisation."""
    images = [t for t in preprocess.transforms if not isinstance(t, ToTensor | Normalize)]
    (normalise,) = (t for t in preprocess.transforms if isinstance(t, Normalize))
    return Compose(images), normalise
