"""Read training shards: the selected rows of pairs and embeddings, side by side.

R rows to train on in a shard, B rows of a microbatch, D embedding width, S image size, T tokens.
"""

import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from einops import rearrange
from PIL import Image, ImageOps

from pipelines.artifacts.schema import PAIRS, SELECTION
from pipelines.core.errors import PipelineError, first_line
from pipelines.core.filesystem import StoreError
from pipelines.core.tables import read_table, to_numpy

log = logging.getLogger(__name__)

# The fields that a batch may have.
FIELDS = ("pixels", "image_embeds", "image_norm", "text_embeds", "tokens", "keys")
PAIR_COLUMNS = {"pixels": "image", "tokens": "caption"}
EMBEDDING_COLUMNS = ("image_embeds", "image_norm", "text_embeds")
LISTING_THREADS = 16

Tokenize = Callable[[list[str]], torch.Tensor]  # captions → (B, T) int64


class TrainingDataError(PipelineError):
    """Shards cannot be read, or their rows do not match."""


@dataclass(frozen=True)
class ShardFiles:
    """One training shard: the URLs of its Parquet files, and the number of rows to train on."""

    name: str
    pairs: str
    embeddings: str
    selection: str
    rows: int


def read_columns(url: str, columns: Sequence[str], schema: pa.Schema | None = None) -> pa.Table:
    """These columns of a Parquet file. Raises TrainingDataError, SchemaError."""
    try:
        return read_table(url, columns, schema)
    except StoreError as error:
        raise TrainingDataError(
            f"The shard {url} cannot be read: {first_line(error)}. If the file is gone, run again: "
            "its stage makes the missing shards."
        ) from error


def list_shards(pairs: str, embeddings: str, selection: str) -> tuple[ShardFiles, ...]:
    """The shards of three folders, by name, each with the number of rows that are not held out."""
    fs, root = fsspec.core.url_to_fs(selection)
    paths = fs.glob(f"{root.rstrip('/')}/*.parquet")
    names = sorted(path.rpartition("/")[2] for path in paths)
    if not names:
        raise TrainingDataError(f"There are no shards in {selection}: nothing was selected.")

    def count(name: str) -> ShardFiles:
        url = f"{selection.rstrip('/')}/{name}"
        held_out = read_columns(url, ["held_out"], SELECTION)["held_out"]
        return ShardFiles(
            name=name.removesuffix(".parquet"),
            pairs=f"{pairs.rstrip('/')}/{name}",
            embeddings=f"{embeddings.rstrip('/')}/{name}",
            selection=url,
            rows=len(held_out) - (pc.sum(held_out).as_py() or 0),
        )

    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        shards = tuple(pool.map(count, names))
    log.info("%d shards with %d rows to train on", len(shards), sum(s.rows for s in shards))
    return shards


def decode_pixels(image: bytes, image_size: int) -> np.ndarray:
    """A stored image as (S, S, 3) uint8: the centre square, box-averaged down or bicubic up."""
    with Image.open(io.BytesIO(image)) as stored:
        rgb = stored.convert("RGB")
    if rgb.size != (image_size, image_size):
        is_larger = min(rgb.size) > image_size
        method = Image.Resampling.BOX if is_larger else Image.Resampling.BICUBIC
        rgb = ImageOps.fit(rgb, (image_size, image_size), method=method)
    return np.asarray(rgb)


def check_keys(keys: pa.ChunkedArray, others: pa.ChunkedArray, *, where: str, other: str) -> None:
    """Raise TrainingDataError, with both names, if the keys of two shards differ."""
    if keys.equals(others):
        return
    unequal = (
        next(i for i, (a, b) in enumerate(zip(keys, others, strict=False)) if a != b)
        if len(keys) == len(others)
        else min(len(keys), len(others))
    )
    raise TrainingDataError(
        f"The rows of {where} ({len(keys)}) and {other} ({len(others)}) do not belong together: "
        f"their keys differ from row {unequal} on. One of them was made from other pairs. Run its "
        "stage again with --force."
    )


class Shard:
    """A shard's selected rows in memory, with the columns that the fields need.

    Images stay encoded. `nbytes` is the size in bytes, including decoded images that are kept.
    """

    def __init__(self, files: ShardFiles, fields: Sequence[str], *, held_out: bool = False) -> None:
        selection = read_columns(files.selection, ["key", "row", "held_out"], SELECTION)
        selection = selection.filter(pc.equal(selection["held_out"], held_out))
        wanted = ["key", *(PAIR_COLUMNS[f] for f in fields if f in PAIR_COLUMNS)]
        pairs = read_columns(files.pairs, wanted, PAIRS)
        self.pairs = take_rows(pairs, selection, files.pairs, files.selection)
        self.embeds: dict[str, np.ndarray] = {}
        columns = [f for f in fields if f in EMBEDDING_COLUMNS]
        if columns:
            embeddings = read_columns(files.embeddings, ["key", *columns])
            check_keys(pairs["key"], embeddings["key"], where=files.pairs, other=files.embeddings)
            taken = embeddings.take(selection["row"])
            self.embeds = {name: to_numpy(taken[name]) for name in columns}
        self.pixels: dict[int, np.ndarray] = {}
        # Summed only once, because the cache reads it at every step.
        self.nbytes = int(self.pairs.nbytes) + sum(m.nbytes for m in self.embeds.values())

    @property
    def rows(self) -> int:
        """The number of selected rows."""
        return int(self.pairs.num_rows)

    def text(self, column: str, row: int) -> str:
        """A value of a text column, such as key or caption."""
        return str(self.pairs[column][row].as_py())

    def decode(self, row: int, image_size: int, *, keep: bool) -> np.ndarray:
        """The row's image as (S, S, 3) uint8; `keep` keeps it for later calls."""
        if row in self.pixels:
            return self.pixels[row]
        pixels = decode_pixels(self.pairs["image"][row].as_py(), image_size)
        if keep:
            self.pixels[row] = pixels
            self.nbytes += pixels.nbytes
        return pixels


def take_rows(pairs: pa.Table, selection: pa.Table, where: str, other: str) -> pa.Table:
    """The selected rows of the pairs. Raises TrainingDataError if their keys differ."""
    if selection.num_rows and pc.max(selection["row"]).as_py() >= pairs.num_rows:
        raise TrainingDataError(
            f"{other} selects row {pc.max(selection['row']).as_py()} of {where}, which has only "
            f"{pairs.num_rows}. One of them was made from other pairs. Run its stage with --force."
        )
    taken = pairs.take(selection["row"]).combine_chunks()
    check_keys(taken["key"], selection["key"], where=f"{where} that are selected", other=other)
    return taken


def to_tensor(images: list[np.ndarray]) -> torch.Tensor:
    """B images of (S, S, 3) uint8 as (B, 3, S, S) float32 in [-1, 1]."""
    stacked = rearrange(torch.from_numpy(np.stack(images)), "b h w c -> b c h w")
    return stacked.contiguous().float().div_(127.5).sub_(1.0)


def make_batch(
    rows: Sequence[tuple[Shard, int]],
    fields: Sequence[str],
    *,
    image_size: int | None,
    tokenize: Tokenize | None,
    keep_pixels: bool,
) -> dict[str, Any]:
    """The fields of B rows: keys as a list of str, the others as tensors with B first."""
    batch: dict[str, Any] = {}
    for field in fields:
        if field == "keys":
            batch[field] = [shard.text("key", row) for shard, row in rows]
        elif field == "tokens":
            assert tokenize is not None  # TrainingLoader has checked it
            batch[field] = tokenize([shard.text("caption", row) for shard, row in rows])
        elif field == "pixels":
            assert image_size is not None
            batch[field] = to_tensor([s.decode(r, image_size, keep=keep_pixels) for s, r in rows])
        else:
            batch[field] = torch.from_numpy(np.stack([s.embeds[field][r] for s, r in rows]))
    return batch
