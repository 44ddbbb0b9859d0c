"""The columns of a URL list: from those of a file to typed record batches of bounded size.

L listed rows, R rows that are made of them (more than L if rows have several captions)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.list_errors import ListContentError, shown
from pipelines.data.list_values import (
    Place,
    digests,
    is_list,
    no_blanks,
    numbers,
    optional_text,
    text,
)

MAX_ROWS = 8192  # of a batch
MAX_NAMES = 20  # of columns, in a message
MAX_BYTES = 16 * 2**20  # of a batch, and so of a row
LINE = "__line__"  # optional column of a table: the line of the file where the row starts
RESERVED = {  # columns that pairs, or the tables about them, have already
    *("key", "url", "caption", "image", "width", "height", "original_width", "original_height"),
    *("sha256", "phash", "hash", "held_out", "row", "reason", "repeats", "repeats_key"),
}

# Line breaks, tabs, NUL, escape sequences: they break terminals, logs and the keys of pairs.
CONTROL_CHARACTERS = r"\p{Cc}+"

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class ListColumns:
    """Which columns of a list are read, and as what."""

    url: str
    captions: tuple[str, ...]
    hash: str | None = None
    split: str | None = None
    held_out_splits: tuple[str, ...] = ()
    extra: Mapping[str, Literal["number", "text"]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that a file must have."""
        given = (self.url, *self.captions, self.hash, self.split, *(self.extra or {}))
        return tuple(dict.fromkeys(name for name in given if name is not None))

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch."""
        types = {"number": pa.float64(), "text": pa.string()}
        return pa.schema(
            [
                pa.field("url", pa.string(), nullable=False),  # "" where the list has none
                pa.field("caption", pa.string(), nullable=False),  # likewise
                pa.field("hash", pa.string()),  # hex digest of the file behind the URL
                pa.field("held_out", pa.bool_()),  # null where the list does not say
                *(pa.field(name, types[kind]) for name, kind in (self.extra or {}).items()),
            ]
        )


def check_columns(found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise `ListContentError`, with the columns found, unless each wanted one is there once."""
    missing = [name for name in wanted if name not in found]
    if missing:
        names = [*map(shown, found[:MAX_NAMES]), *(["…"] if len(found) > MAX_NAMES else [])]
        raise ListContentError(
            f"has no column {', '.join(map(repr, missing))}; it has {', '.join(names) or 'none'}",
            "Name columns of the file in url_column, caption_column and the other settings of the "
            "section source."
            if all(map(str.isprintable, found))
            else "It is compressed, or in another encoding than source.encoding: give it the "
            "suffix of its compression, such as .csv.gz, or name its encoding, such as utf-16.",
        )
    twice = [name for name in wanted if list(found).count(name) > 1]
    if twice:
        raise ListContentError(
            f"has more than one column {', '.join(map(repr, twice))}",
            "Rename all but one of them.",
        )


def typed_batches(tables: Iterable[Any], columns: ListColumns) -> Iterator[pa.RecordBatch]:
    """The rows of the tables as batches of `columns.schema`, in their order.

    tables: anything that `pyarrow.table` takes. Raises `ListContentError`.
    """
    first = 1
    for rows in tables:
        table = pa.table(rows)
        check_columns(table.column_names, columns.names)
        for batch in table.to_batches(max_chunksize=MAX_ROWS):
            yield from _typed(batch, columns, _places(batch, first))
            first += batch.num_rows


def _places(batch: pa.RecordBatch, first: int) -> Place:
    if LINE in batch.schema.names:
        return lambda row: f"line {batch[LINE][row]}"
    return lambda row: f"row {first + row:,}"


def _typed(batch: pa.RecordBatch, columns: ListColumns, place: Place) -> Iterator[pa.RecordBatch]:
    listed = _without_captions(batch, columns, place)  # L rows
    parents, captions = _captions(batch, columns.captions, place)  # (R,), (R,)
    row_bytes = np.sum([_bytes(c) for c in listed.columns], axis=0)[parents] + _bytes(captions)
    if (row_bytes > MAX_BYTES).any():
        row = int(parents[np.argmax(row_bytes > MAX_BYTES)])
        raise ListContentError(
            f"has more than {MAX_BYTES // 2**20} MiB of text",
            "Take the row out: this is seldom a URL and its caption.",
            place=place(row),
        )
    names = columns.schema.names
    for start, end in _pieces(row_bytes):
        piece = listed.take(pa.array(parents[start:end]))  # a copy, to send without the rest
        arrays = dict(zip(piece.schema.names, piece.columns, strict=True))
        arrays["caption"] = captions.take(pa.array(np.arange(start, end)))
        yield pa.RecordBatch.from_arrays([arrays[n] for n in names], schema=columns.schema)


def _without_captions(batch: pa.RecordBatch, columns: ListColumns, place: Place) -> pa.RecordBatch:
    """One row for each listed row, with all columns of the schema but the caption."""
    arrays = {
        "url": pc.fill_null(text(batch[columns.url], columns.url, place), ""),
        "hash": pa.nulls(batch.num_rows, pa.string()),
        "held_out": pa.nulls(batch.num_rows, pa.bool_()),
    }
    if columns.hash is not None:
        arrays["hash"] = digests(batch[columns.hash], columns.hash, place)
    if columns.split is not None:
        split = no_blanks(text(batch[columns.split], columns.split, place))
        held_out = pc.is_in(split, value_set=pa.array(columns.held_out_splits, pa.string()))
        arrays["held_out"] = pc.if_else(pc.is_valid(split), held_out, None)
    for name, kind in (columns.extra or {}).items():
        convert = numbers if kind == "number" else optional_text
        arrays[name] = convert(batch[name], name, place)
    return pa.RecordBatch.from_pydict(arrays)


def _captions(
    batch: pa.RecordBatch, names: Sequence[str], place: Place
) -> tuple[Indices, pa.Array]:
    """The captions, and the position in the batch of the row that each belongs to.

    A space takes the place of control characters, so that a caption is a single line of text.
    A column of strings gives one caption for each row. Several columns, or a column of lists, give
    those that are not blank, or "" for a row without one.
    """
    found = [_captions_of(batch[name], name, place) for name in names]
    if len(found) == 1 and not is_list(batch[names[0]].type):
        return found[0]
    parents = np.concatenate([parents for parents, _ in found])
    captions = pa.concat_arrays([captions for _, captions in found])
    kept = pc.not_equal(pc.utf8_trim_whitespace(captions), "").to_numpy(zero_copy_only=False)
    none = np.setdiff1d(np.arange(batch.num_rows), parents[kept])
    parents = np.concatenate([parents[kept], none])
    captions = pa.concat_arrays(
        [captions.filter(pa.array(kept)), pa.array([""] * len(none), pa.string())]
    )
    order = np.argsort(parents, kind="stable")
    return parents[order], captions.take(pa.array(order))


def _captions_of(array: pa.Array, name: str, place: Place) -> tuple[Indices, pa.Array]:
    parents = np.arange(len(array))
    if is_list(array.type):
        parents = pc.list_parent_indices(array).to_numpy().astype(np.int64)
        array = pc.list_flatten(array)
    values = text(array, name, lambda position: place(int(parents[position])))
    return parents, pc.replace_substring_regex(pc.fill_null(values, ""), CONTROL_CHARACTERS, " ")


def _bytes(array: pa.Array) -> Indices:
    """The size of each value."""
    if not pa.types.is_string(array.type):
        return np.full(len(array), 8)
    sizes: Indices = pc.fill_null(pc.binary_length(array), 0).to_numpy().astype(np.int64)
    return sizes


def _pieces(row_bytes: Indices) -> Iterator[tuple[int, int]]:
    """The start and end of slices of at most `MAX_ROWS` rows and `MAX_BYTES` bytes."""
    totals = np.cumsum(row_bytes)
    start = 0
    while start < len(totals):
        before = totals[start - 1] if start else 0
        end = int(np.searchsorted(totals, before + MAX_BYTES, side="right"))
        yield start, (end := min(end, start + MAX_ROWS))
        start = end
