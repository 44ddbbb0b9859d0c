"""A batch of training rows, and its checks before a loss reads it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unclip.config import ConfigError

# Tensors by name, whose first axis is the row: "pixels" (B, 3, S, S) in [-1, 1] at the model's
# image_size, "image_embeds" and "text_embeds" (B, E) unit-norm, "image_norm" (B,) with the length
# that the image embeddings had before, "tokens" (B, L) int64 padded with 0. The list "keys" of str
# names the rows in messages.
Batch = Mapping[str, Any]


def take(batch: Batch, *names: str) -> list[Tensor]:
    """The tensors of these names; raises `ConfigError` if one is missing."""
    missing = [name for name in names if name not in batch]
    if missing:
        raise ConfigError(
            f"the batch has {', '.join(sorted(batch)) or 'nothing'}, but the objective also needs "
            f"{', '.join(missing)}; add them to the fields that the loader reads"
        )
    return [batch[name] for name in names]


def expect(batch: Batch, name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of that name; raises `ConfigError` unless each row has the given shape."""
    tensor = take(batch, name)[0]
    if tuple(tensor.shape[1:]) != shape:
        raise ConfigError(
            f"batch[{name!r}] has shape {tuple(tensor.shape)}, but the model's config asks for "
            f"({', '.join(['B', *map(str, shape)])}); change the loader or the config"
        )
    return tensor


def unnormalised_image_embeds(batch: Batch, width: int) -> Tensor:
    """Image embeddings with the length that CLIP gave them; (B, width) float32."""
    unit, norm = expect(batch, "image_embeds", (width,)), expect(batch, "image_norm", ())
    return unit.float() * norm.float()[:, None]
