"""Contact sheets of the samples, for people in a hurry and for the tracking server."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.store import Folder
from pipelines.evaluation.measured import HELD_OUT, TRAINING
from pipelines.evaluation.pictures import grid
from pipelines.evaluation.rows import Values

GRID_SIDE = 64  # pixels of a picture in a grid
GRID_COLUMNS = 12  # captions beside each other, or probes below


def read_pictures(folder: Folder, names: Iterable[str], columns: Sequence[str]) -> pa.Table:
    """Some columns of all samples, by key."""
    tables = [folder.read_table(f"{name}.parquet", [*columns]) for name in names]
    return pa.concat_tables(tables).sort_by("key")


def write_grids(folder: Folder, names: Sequence[str]) -> list[str]:
    """Write samples-<split>.png and reconstructions-<split>.png; returns their names."""
    files = []
    columns = ["key", "held_out", "original", "generated", "from_true_embedding", "variations"]
    table = read_pictures(folder, names, columns)
    for split in (HELD_OUT, TRAINING):
        own = table.filter(pc.equal(table["held_out"], split == HELD_OUT))
        rows = own.slice(0, GRID_COLUMNS).to_pylist()
        probes = [row for row in rows if row["variations"] is not None]
        files += [f"samples-{split}.png", f"reconstructions-{split}.png"]
        folder.write_bytes(files[-2], grid(_above_each_other(rows), GRID_SIDE))
        folder.write_bytes(files[-1], grid([_varied(row) for row in probes], GRID_SIDE))
    return files


def _above_each_other(rows: Sequence[Values]) -> list[list[bytes]]:
    """Originals in the first row, what was generated in the second."""
    return [[row["original"] for row in rows], [row["generated"] for row in rows]]


def _varied(row: Values) -> list[bytes]:
    """The original, its reconstruction, its variations."""
    return [row["original"], row["from_true_embedding"], *row["variations"]]
