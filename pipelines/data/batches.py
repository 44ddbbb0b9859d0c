"""Rows to train on in memory, and the batches that are made of them."""

# B rows of a microbatch, S image size, D embedding width, T tokens

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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


class TrainingDataError(PipelineError):
    """Shards cannot be read, or their rows do not match."""


@dataclass(frozen=True)
class Rows:
    """Selected rows of a shard, with the columns that the fields need. Images stay encoded."""

    pairs: pa.Table  # key, and caption and image if a field needs them
    embeds: Mapping[str, np.ndarray]  # the embeddings by field, each with one entry for each row
    where: str  # the file of the pairs, for messages
    kept_pixels: dict[int, np.ndarray] | None = None  # decoded images; None: they are not kept
    nbytes: int = field(init=False)  # without decoded images

    def __post_init__(self) -> None:
        size = int(self.pairs.nbytes) + sum(values.nbytes for values in self.embeds.values())
        object.__setattr__(self, "nbytes", size)

    def __len__(self) -> int:
        return int(self.pairs.num_rows)

    def text(self, column: str, row: int) -> str:
        """A value of a text column, such as key or caption."""
        return str(self.pairs[column][row].as_py())

    def decode(self, row: int, pixels: np.ndarray) -> None:
        """Write the row's image to `pixels` (S, S, 3) uint8. Raises `TrainingDataError`."""
        if self.kept_pixels is not None and row in self.kept_pixels:
            pixels[:] = self.kept_pixels[row]
            return
        try:
            decode_into(pixels, self.pairs["image"][row].as_py())
        except Exception as error:  # PIL raises anything on broken data
            raise TrainingDataError(
                f"The image of pair {self.text('key', row)} in {self.where} cannot be decoded: "
                f"{first_line(error)}. The stage that wrote the file checks every image, so the "
                "file was damaged later: delete it and run again, and it is made anew."
            ) from error
        if self.kept_pixels is not None:
            self.kept_pixels[row] = pixels.copy()


def make_batch(
    rows: Sequence[tuple[Rows, int]],
    fields: Sequence[str],
    *,
    image_size: int | None,
    tokenize: Tokenize | None,
    pin_memory: bool = False,
) -> dict[str, Any]:
    """The fields of B rows: keys as a list of str, the others as tensors with B first.

    Images are uint8; see `unclip.training.to_device`. pin_memory: for a copy to a GPU.
    """
    batch: dict[str, Any] = {}
    for name in fields:
        if name == "keys":
            batch[name] = [block.text("key", row) for block, row in rows]
        elif name == "tokens":
            assert tokenize is not None  # TrainingLoader has checked it
            batch[name] = tokenize([block.text("caption", row) for block, row in rows])
        elif name == "pixels":
            assert image_size is not None
            batch[name] = stacked_pixels(rows, image_size, pin_memory=pin_memory)
        else:
            batch[name] = torch.from_numpy(np.stack([b.embeds[name][row] for b, row in rows]))
    return batch


def stacked_pixels(
    rows: Sequence[tuple[Rows, int]], image_size: int, *, pin_memory: bool
) -> torch.Tensor:
    """The images of B rows as (B, 3, S, S) uint8.

    In memory, channels come last: images are decoded to where they stay, and the device transposes.
    """
    shape = (len(rows), image_size, image_size, CHANNELS)
    if pin_memory:
        stacked = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    else:
        stacked = torch.from_numpy(np.empty(shape, np.uint8))  # numpy asks for huge pages
    for pixels, (block, row) in zip(stacked.numpy(), rows, strict=True):
        block.decode(row, pixels)
    return rearrange(stacked, "b h w c -> b c h w")
