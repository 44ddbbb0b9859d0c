"""The samples of one split as arrays, without their pictures."""

# N rows, P of them probes, E width of the CLIP embeddings, S side of a thumbnail

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipelines.core.store import Folder
from pipelines.evaluation.generate import EMBEDDED, THUMBNAILS
from pipelines.evaluation.images import read_thumbnails
from pipelines.evaluation.rows import REFERENCE

EMBEDS = (
    "image_embeds",
    "text_embeds",
    "predicted_image_embeds",
    "second_predicted_image_embeds",
    *(f"{name}_embeds" for name in EMBEDDED),
)
COLUMNS = ["key", "held_out", *EMBEDS, *(f"{name}_thumbnail" for name in THUMBNAILS)]


@dataclass(frozen=True)
class Samples:
    """Rows of one split in the order of their keys; the probes come first."""

    table: pa.Table

    @classmethod
    def read(cls, folder: Folder, names: Iterable[str], *, held_out: bool) -> "Samples":
        """From the shards of these names."""
        tables = [folder.read_table(f"{name}.parquet", COLUMNS) for name in names]
        table = pa.concat_tables(tables)
        return cls(table.filter(pc.equal(table["held_out"], held_out)).sort_by("key"))

    @property
    def probes(self) -> "Samples":
        """The rows that were decoded from embeddings too."""
        return Samples(self.table.filter(pc.is_valid(self.table["from_true_embedding_thumbnail"])))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def embeds(self, column: str) -> Tensor:
        """(N, E) float32."""
        return to_matrix(self.table[column])

    def has(self, column: str) -> bool:
        """Whether the column was made."""
        return len(self) > 0 and bool(pc.all(pc.is_valid(self.table[column])).as_py())

    def thumbnails(self, name: str) -> np.ndarray:
        """(N, S, S, 3) in [0, 1]."""
        return read_thumbnails(self.table[f"{name}_thumbnail"].to_pylist())


def read_reference(folder: Folder) -> Tensor:
    """Image embeddings of training pairs, (R, E)."""
    return to_matrix(folder.read_table(REFERENCE)["image_embeds"])


def to_matrix(column: pa.ChunkedArray) -> Tensor:
    """A column of lists of one length as (N, E) float32."""
    rows = np.array(column.to_pylist(), np.float32)
    return torch.from_numpy(rows.reshape(len(column), -1))
