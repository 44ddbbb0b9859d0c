"""Read training shards: the selected rows of pairs and embeddings, side by side."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.artifacts import EmbeddingShards, PairShards, SelectionShards
from pipelines.artifacts.schema import SELECTION, rendition
from pipelines.core.errors import first_line
from pipelines.core.filesystem import StoreError
from pipelines.core.tables import ParquetRows, opened, read_batches, read_table, to_numpy
from pipelines.data.batches import Rows, TrainingDataError

log = logging.getLogger(__name__)

RENDITION = rendition(0).removesuffix("0")  # the beginning of such columns
EMBEDDING_COLUMNS = ("image_embeds", "image_norm", "text_embeds")


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


@dataclass(frozen=True)
class RowReader:
    """Reads selected rows of shards, with the columns that the fields need."""

    fields: Sequence[str]
    image_size: int | None = None  # of the field "pixels"; the smallest image that has it is read
    held_out: bool = False  # whether held-out rows are read, instead of those to train on
    keep_pixels: bool = False  # whether `Rows` keep decoded images

    def read(self, files: ShardFiles, rows: np.ndarray) -> Rows:
        """Some of the `files.rows` selected rows, by their ascending positions among them.

        Only row groups that have such rows are read. Raises `TrainingDataError` if the shard cannot
        be read, or if its files do not belong together.
        """
        selection = select_rows(files.selection, held_out=self.held_out)
        if selection.num_rows != files.rows:
            raise TrainingDataError(
                f"{files.selection} selects {selection.num_rows} rows, but selected {files.rows} "
                "when the training began: it was replaced. Start the training again."
            )
        chosen = selection.take(rows)
        pairs = self._pairs(files.pairs, chosen["row"].to_numpy())
        check_keys(pairs["key"], chosen["key"], where=files.pairs, other=files.selection)
        kept_pixels: dict[int, np.ndarray] | None = {} if self.keep_pixels else None
        return Rows(files.pairs, pairs, self._embeds(files, chosen), kept_pixels)

    def stored_bytes(self, files: ShardFiles) -> float:
        """The mean size of a pair with the columns that are read, from the file's metadata."""
        with found(files.pairs):
            shard = ParquetRows(files.pairs)
            image = smallest_image(shard.columns, self.image_size)
            return shard.row_bytes(["key", *self._pair_columns(image)])

    def embeds_bytes(self, files: ShardFiles) -> float:
        """The size of the embeddings of a row in memory."""
        columns = [name for name in self.fields if name in EMBEDDING_COLUMNS]
        if not columns:
            return 0.0
        assert files.embeddings is not None
        with found(files.embeddings):
            schema = ParquetRows(files.embeddings, columns).file.schema_arrow
        return sum(4 * getattr(schema.field(name).type, "list_size", 1) for name in columns)

    def _pairs(self, url: str, rows: np.ndarray) -> pa.Table:
        with found(url):
            shard = ParquetRows(url)
        image = smallest_image(shard.columns, self.image_size)
        columns = {"key": "key", **self._pair_columns(image)}
        return take_rows(shard, rows, list(columns)).rename_columns(list(columns.values()))

    def _pair_columns(self, image: str) -> dict[str, str]:
        """The columns of the pairs that the fields need, and their names in `Rows`."""
        columns = {"tokens": ("caption", "caption"), "pixels": (image, "image")}
        return dict(columns[name] for name in self.fields if name in columns)

    def _embeds(self, files: ShardFiles, chosen: pa.Table) -> dict[str, np.ndarray]:
        columns = [name for name in self.fields if name in EMBEDDING_COLUMNS]
        if not columns:
            return {}
        assert files.embeddings is not None
        with found(files.embeddings):
            shard = ParquetRows(files.embeddings)
        taken = take_rows(shard, chosen["position"].to_numpy(), ["key", *columns])
        check_keys(taken["key"], chosen["key"], where=files.embeddings, other=files.pairs)
        return {name: to_numpy(taken[name]) for name in columns}


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


def take_rows(shard: ParquetRows, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """Rows of a shard, by their ascending positions.

    Raises `TrainingDataError` if the shard has fewer rows, or cannot be read.
    """
    if len(rows) and rows[-1] >= shard.num_rows:
        raise TrainingDataError(
            f"Row {rows[-1]} of {shard.url} is selected, which has only {shard.num_rows}. The "
            "selection was made from other pairs. Run its stage with --force."
        )
    with found(shard.url):
        return shard.take(rows, columns)


def image_column(url: str, image_size: int | None) -> str:
    """The column of a shard with the smallest image of at least this size."""
    with found(url), opened(url) as file:
        return smallest_image(file.schema_arrow.names, image_size)


def smallest_image(columns: Sequence[str], image_size: int | None) -> str:
    """The column with the smallest image of at least this size."""
    sizes = sorted(int(c.removeprefix(RENDITION)) for c in columns if c.startswith(RENDITION))
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
