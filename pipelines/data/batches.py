"""Rows to train on in memory, and the batches that are made of them."""

# B rows of a microbatch, S image size, D embedding width, T tokens

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from einops import rearrange

from pipelines.core.errors import PipelineError, first_line
from pipelines.data.pixels import decode_into

# The fields that a batch may have.
FIELDS = ("pixels", "image_embeds", "image_norm", "text_embeds", "tokens", "keys")
CHANNELS = 3

Tokenize = Callable[[list[str]], torch.Tensor]  # captions → (B, T) int64
NewPixels = Callable[[tuple[int, ...]], torch.Tensor]  # shape → uint8 of any content


class TrainingDataError(PipelineError):
    """Shards cannot be read, or their rows do not match."""


@dataclass(frozen=True)
class Rows:
    """Selected rows of a shard, with the columns that the fields need. Images stay encoded."""

    where: str  # the file of the pairs, for messages
    pairs: pa.Table  # key, and caption and image if a field needs them
    embeds: Mapping[str, np.ndarray]  # by field, each with one entry for each row
    kept_pixels: dict[int, np.ndarray] | None = None  # decoded images; None: they are not kept

    def __len__(self) -> int:
        return int(self.pairs.num_rows)

    @property
    def nbytes(self) -> int:
        """The size, including decoded images."""
        kept = list((self.kept_pixels or {}).values())
        return self._stored_bytes + sum(pixels.nbytes for pixels in kept)

    @cached_property
    def _stored_bytes(self) -> int:
        return int(self.pairs.nbytes) + sum(values.nbytes for values in self.embeds.values())

    @cached_property
    def keys(self) -> list[str]:
        """The key of each row."""
        return list(self.pairs["key"].to_pylist())  # an item of a pyarrow column takes 2 µs

    @cached_property
    def captions(self) -> list[str]:
        """The caption of each row."""
        return list(self.pairs["caption"].to_pylist())

    def decode(self, row: int, pixels: np.ndarray) -> None:
        """Write the row's image to `pixels` (S, S, 3) uint8. Raises `TrainingDataError`."""
        if self.kept_pixels is not None and row in self.kept_pixels:
            pixels[:] = self.kept_pixels[row]
            return
        try:
            decode_into(pixels, self.pairs["image"][row].as_py())
        except Exception as error:  # PIL raises anything on broken data
            raise TrainingDataError(
                f"The image of pair {self.keys[row]} in {self.where} cannot be decoded: "
                f"{first_line(error)}. The stage that wrote the file checks every image, so the "
                "file was damaged later: delete it and run again, and it is made anew."
            ) from error
        if self.kept_pixels is not None:
            self.kept_pixels[row] = pixels.copy()


def new_pixels(shape: tuple[int, ...]) -> torch.Tensor:
    """A uint8 tensor of any content."""
    return torch.empty(shape, dtype=torch.uint8)


def pinned_pixels(shape: tuple[int, ...]) -> torch.Tensor:
    """The same, for a copy to a GPU. torch uses the memory again, after the copy."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


class ReusedPixels:
    """Makes such tensors of memory that nothing refers to any more.

    The system clears new memory, which takes a tenth of the time of decoding. For any thread.
    """

    def __init__(self) -> None:
        self.free: dict[tuple[int, ...], list[np.ndarray]] = {}

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A uint8 tensor of any content. Its memory is free again when its last view is gone."""
        free = self.free.setdefault(shape, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(shape, np.uint8)
        view = memory.view()  # the tensor refers to it, and `memory` outlives both
        weakref.finalize(view, free.append, memory).atexit = False
        return torch.from_numpy(view)


def make_batch(
    rows: Sequence[tuple[Rows, int]],
    fields: Sequence[str],
    *,
    image_size: int | None,
    tokenize: Tokenize | None,
    empty: NewPixels = new_pixels,
) -> dict[str, Any]:
    """The fields of B rows: keys as a list of str, the others as tensors with B first.

    Images are uint8, in memory from `empty`; see `unclip.training.to_device`.
    """
    batch: dict[str, Any] = {}
    for name in fields:
        if name == "keys":
            batch[name] = [block.keys[row] for block, row in rows]
        elif name == "tokens":
            assert tokenize is not None  # TrainingLoader has checked it
            batch[name] = tokenize([block.captions[row] for block, row in rows])
        elif name == "pixels":
            assert image_size is not None
            batch[name] = stacked_pixels(rows, image_size, empty)
        else:
            batch[name] = torch.from_numpy(np.stack([b.embeds[name][row] for b, row in rows]))
    return batch


def stacked_pixels(
    rows: Sequence[tuple[Rows, int]], image_size: int, empty: NewPixels = new_pixels
) -> torch.Tensor:
    """The images of B rows as (B, 3, S, S) uint8.

    In memory, channels come last: images are decoded to where they stay, and the device transposes.
    """
    stacked = empty((len(rows), image_size, image_size, CHANNELS))
    for pixels, (block, row) in zip(stacked.numpy(), rows, strict=True):
        block.decode(row, pixels)
    return rearrange(stacked, "b h w c -> b c h w")
