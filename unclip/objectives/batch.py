"""A batch of training rows, and the checks that a loss makes on it."""

# B batch, S image size, E width of the CLIP embeddings, L tokens of the captions

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unclip.config import ConfigError

# Tensors by name; their first axis is the row:
# - "pixels": (B, 3, S, S) in [-1, 1], at the model's image_size; or uint8, which the training loop
#   converts on the device
# - "image_embeds", "text_embeds": (B, E) unit-norm
# - "image_norm": (B,), the norms of the image embeddings before they were normalised
# - "tokens": (B, L) int64, padded with 0
# - "timesteps": (B,) int64, of the noise; drawn by the loss if missing
# The list "keys" of str identifies the rows in messages.
Batch = Mapping[str, Any]


def take(batch: Batch, *names: str) -> list[Tensor]:
    """The tensors with these names; raises `ConfigError` if one is missing."""
    missing = [name for name in names if name not in batch]
    if missing:
        raise ConfigError(
            f"the batch has {', '.join(sorted(batch)) or 'nothing'}, but the objective also needs "
            f"{', '.join(missing)}; add them to the fields that the loader reads"
        )
    return [batch[name] for name in names]


def expect(batch: Batch, name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor with that name; raises `ConfigError` unless its rows have the given shape."""
    tensor = take(batch, name)[0]
    if tuple(tensor.shape[1:]) != shape:
        raise ConfigError(
            f"batch[{name!r}] has shape {tuple(tensor.shape)}, but the model's config asks for "
            f"({', '.join(['B', *map(str, shape)])}); change the loader or the config"
        )
    return tensor


def unnormalised_image_embeds(batch: Batch, width: int) -> Tensor:
    """Image embeddings with CLIP's own norm; (B, width) float32."""
    unit, norm = expect(batch, "image_embeds", (width,)), expect(batch, "image_norm", ())
    return unit.float() * norm.float()[:, None]
