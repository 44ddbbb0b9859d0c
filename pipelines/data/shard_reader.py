"""Read training shards: the selected rows of pairs and embeddings, side by side.

R rows to train on in a shard, B rows of a microbatch, D embedding width, S image size, T tokens.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from einops import rearrange

from pipelines.artifacts import EmbeddingShards, PairShards, SelectionShards
from pipelines.artifacts.schema import SELECTION, rendition
from pipelines.core.errors import PipelineError, first_line
from pipelines.core.filesystem import StoreError
from pipelines.core.tables import ParquetRows, opened, read_batches, read_table, to_numpy
from pipelines.data.pixels import decode_pixels

log = logging.getLogger(__name__)

# The fields that a batch may have.
FIELDS = ("pixels", "image_embeds", "image_norm", "text_embeds", "tokens", "keys")
PAIR_FIELDS = ("pixels", "tokens")  # made from the pairs
RENDITION = rendition(0).removesuffix("0")  # the beginning of such columns
EMBEDDING_COLUMNS = ("image_embeds", "image_norm", "text_embeds")

Tokenize = Callable[[list[str]], torch.Tensor]  # captions → (B, T) int64


class TrainingDataError(PipelineError):
    """Shards cannot be read, or their rows do not match."""


@dataclass(frozen=True)
class ShardFiles:
    """One training shard: the URLs of its Parquet files, and the number of rows to use."""

    name: str
    pairs: str
    embeddings: str | None  # None if no field needs them
    selection: str
    rows: int


def training_files(
    pairs: PairShards, embeddings: EmbeddingShards, selection: SelectionShards
) -> tuple[ShardFiles, ...]:
    """The shards that have rows to train on, by name. Raises `TrainingDataError` if none has."""
    shards = _files(pairs, embeddings, selection, selection.training)
    if not shards:
        raise TrainingDataError(f"{selection.folder.url} has no rows to train on.")
    log.info("%d shards with %d rows to train on", len(shards), sum(s.rows for s in shards))
    return shards


def held_out_files(
    pairs: PairShards, embeddings: EmbeddingShards, selection: SelectionShards
) -> tuple[ShardFiles, ...]:
    """The shards that have held-out rows, by name."""
    return _files(pairs, embeddings, selection, selection.held_out)


def _files(
    pairs: PairShards,
    embeddings: EmbeddingShards,
    selection: SelectionShards,
    rows: Mapping[str, int],
) -> tuple[ShardFiles, ...]:
    return tuple(
        ShardFiles(name, pairs.url(name), embeddings.url(name), selection.url(name), count)
        for name, count in sorted(rows.items())
        if count
    )


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

    def __init__(
        self,
        files: ShardFiles,
        fields: Sequence[str],
        *,
        image_size: int | None = None,
        held_out: bool = False,
    ) -> None:
        """image_size: of the field "pixels"; the smallest image that has it is read."""
        selection = select_rows(files.selection, held_out=held_out)
        self.pairs = read_pairs(files.pairs, selection["row"].to_numpy(), fields, image_size)
        check_keys(self.pairs["key"], selection["key"], where=files.pairs, other=files.selection)
        self.embeds: dict[str, np.ndarray] = {}
        columns = [f for f in fields if f in EMBEDDING_COLUMNS]
        if columns:
            assert files.embeddings is not None
            positions = selection["position"].to_numpy()
            taken = take_rows(files.embeddings, positions, ["key", *columns])
            check_keys(taken["key"], selection["key"], where=files.embeddings, other=files.pairs)
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


def select_rows(url: str, *, held_out: bool) -> pa.Table:
    """The selected rows of one split: key, row, position."""
    with found(url):
        selection = read_table(url, schema=SELECTION)
    chosen = pc.and_(pc.is_null(selection["reason"]), pc.equal(selection["held_out"], held_out))
    return selection.filter(chosen).select(["key", "row", "position"])


def training_embeds(embeddings: str, selection: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The rows to train on of one shard, as `select_rows`, with their image embeddings (N, E).

    Reads one row group of the embeddings at a time.
    """
    selected = select_rows(selection, held_out=False)
    positions, start = selected["position"].to_numpy(), 0
    for batch in read_batches(embeddings, ["image_embeds"]):
        inside = np.flatnonzero((positions >= start) & (positions < start + batch.num_rows))
        yield selected.take(inside), to_numpy(batch["image_embeds"])[positions[inside] - start]
        start += batch.num_rows


def take_rows(url: str, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """Rows of a shard, by their ascending positions.

    Raises `TrainingDataError` if the shard has fewer rows, or cannot be read.
    """
    with found(url):
        shard = ParquetRows(url, columns)
        if len(rows) and rows[-1] >= shard.num_rows:
            raise TrainingDataError(
                f"Row {rows[-1]} of {url} is selected, which has only {shard.num_rows}. The "
                "selection was made from other pairs. Run its stage with --force."
            )
        return shard.take(rows)


def read_pairs(
    url: str, rows: np.ndarray, fields: Sequence[str], image_size: int | None
) -> pa.Table:
    """The key of some pairs of a shard, and the columns that the fields need.

    Raises `TrainingDataError`.
    """
    image = image_column(url, image_size)
    columns = ["key", *(image if f == "pixels" else "caption" for f in fields if f in PAIR_FIELDS)]
    taken = take_rows(url, rows, columns).combine_chunks()
    return taken.rename_columns({image: "image"}) if image in columns else taken


def image_column(url: str, image_size: int | None) -> str:
    """The column with the smallest image of at least this size."""
    with found(url), opened(url) as file:
        sizes = sorted(
            int(name.removeprefix(RENDITION))
            for name in file.schema_arrow.names
            if name.startswith(RENDITION)
        )
    fitting = [size for size in sizes if image_size is not None and size >= image_size]
    return rendition(fitting[0]) if fitting else "image"


@contextlib.contextmanager
def found(url: str) -> Iterator[None]:
    """Turn a `StoreError` into a `TrainingDataError` with a hint."""
    try:
        yield
    except StoreError as error:
        raise TrainingDataError(
            f"The shard {url} cannot be read: {first_line(error)}. If the file is gone or damaged, "
            "delete it and run again: its stage makes the missing shards."
        ) from error


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
