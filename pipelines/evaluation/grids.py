"""Contact sheets of the samples, for people in a hurry and for the tracking server."""

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.store import Folder
from pipelines.evaluation.images import grid
from pipelines.evaluation.metric import HELD_OUT, TRAINING
from pipelines.evaluation.rows import Values

SPLITS = (HELD_OUT, TRAINING)
GRID_SIDE = 64  # pixels of a picture in a grid
GRID_COLUMNS = 12  # captions beside each other, or probes below


def count_samples(folder: Folder, names: Iterable[str]) -> dict[str, int]:
    """How many captions of each split were drawn."""
    held_out = [h for name in names for h in _column(folder, name, "held_out")]
    return {HELD_OUT: held_out.count(True), TRAINING: held_out.count(False)}


def first_samples(
    folder: Folder, names: Sequence[str], columns: Sequence[str], most: int
) -> dict[str, list[Values]]:
    """The rows of each split with the smallest keys; no more than one shard is held beside them."""
    chosen = []
    for held_out in (True, False):
        keys = (
            key
            for name in names
            for key, own in zip(
                _column(folder, name, "key"), _column(folder, name, "held_out"), strict=True
            )
            if own is held_out
        )
        chosen += heapq.nsmallest(most, keys)
    rows: list[Values] = []
    for name in names:
        table = folder.read_table(f"{name}.parquet", ["key", "held_out", *columns])
        rows += table.filter(pc.is_in(table["key"], pa.array(chosen, pa.string()))).to_pylist()
    rows.sort(key=lambda row: str(row["key"]))
    return {split: [r for r in rows if r["held_out"] == (split == HELD_OUT)] for split in SPLITS}


def write_grids(folder: Folder, names: Sequence[str]) -> list[str]:
    """Write samples-<split>.png and reconstructions-<split>.png; returns their names."""
    files = []
    columns = ["original", "generated", "from_true_embedding", "variations"]
    for split, rows in first_samples(folder, names, columns, GRID_COLUMNS).items():
        probes = [row for row in rows if row["variations"] is not None]
        files += [f"samples-{split}.png", f"reconstructions-{split}.png"]
        folder.write_bytes(files[-2], grid(_above_each_other(rows), GRID_SIDE))
        folder.write_bytes(files[-1], grid([_varied(row) for row in probes], GRID_SIDE))
    return files


def _column(folder: Folder, name: str, column: str) -> list[Any]:
    values: list[Any] = folder.read_table(f"{name}.parquet", [column])[column].to_pylist()
    return values


def _above_each_other(rows: Sequence[Values]) -> list[list[bytes]]:
    """Originals in the first row, what was generated in the second."""
    return [[row["original"] for row in rows], [row["generated"] for row in rows]]


def _varied(row: Values) -> list[bytes]:
    """The original, its reconstruction, its variations."""
    return [row["original"], row["from_true_embedding"], *row["variations"]]
