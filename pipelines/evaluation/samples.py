"""Read the samples of an evaluation: as rows with their images, or as arrays of one split."""

# N rows, P of them probes, R reference rows, E width of the CLIP embeddings, S side of a thumbnail

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipelines.artifacts.schema import PIXEL_STATISTICS, features_of, predicted_by
from pipelines.core.folder import Folder
from pipelines.core.tables import to_numpy
from pipelines.evaluation.images import decode_thumbnails
from pipelines.evaluation.judging import JUDGED
from pipelines.evaluation.rows import SAMPLES, Values

CLIP = "clip"  # as the name of a judge: the CLIP that conditions the models
HELD_OUT, TRAINING = SPLITS = ("held_out", "training")
PROBES = {  # column of images decoded without a caption → column of the embeddings they come from
    "from_true_embedding": "image_embeds",
    "from_shuffled_embedding": "other_image_embeds",
}
EMBEDDED = ("generated", "untrained", *PROBES)  # image columns that have `<column>_embeds`
DESCRIBED = ("original", "generated", "untrained")  # image columns that have pixel statistics
THUMBNAILS = ("original", "generated", *PROBES)  # image columns that have `<column>_thumbnail`
COLUMNS = (  # everything that metrics read, except what the other priors predict
    "key",
    "held_out",
    "image_embeds",
    "text_embeds",
    "predicted_image_embeds",
    *(f"{name}_embeds" for name in EMBEDDED),
    *(f"{name}_thumbnail" for name in THUMBNAILS),
    *(f"{name}_{statistic}" for name in DESCRIBED for statistic in PIXEL_STATISTICS),
)


@dataclass(frozen=True)
class Samples:
    """The rows of one split in the order of their keys, without images; the probes come first."""

    table: pa.Table

    @classmethod
    def read(
        cls,
        folder: Folder,
        names: Iterable[str],
        *,
        held_out: bool,
        other_priors: Iterable[str] = (),
        judges: Iterable[str] = (),
    ) -> "Samples":
        """The rows of one split in the shards of these names."""
        features = [features_of(image, judge) for judge in judges for image in JUDGED]
        columns = [*COLUMNS, *map(predicted_by, other_priors), *features]
        table = pa.concat_tables(folder.read_table(f"{name}.parquet", columns) for name in names)
        return cls(table.filter(pc.equal(table["held_out"], held_out)).sort_by("key"))

    @property
    def probes(self) -> "Samples":
        """The rows that were also decoded from embeddings."""
        return Samples(self.table.filter(pc.is_valid(self.table["from_true_embedding_thumbnail"])))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def embeds(self, column: str) -> Tensor:
        """(N, E) float32."""
        return to_matrix(self.table[column])

    def features(self, image: str, judge: str) -> Tensor:
        """The features of a column of images by a judge or by `CLIP`, (N, D) float32."""
        return to_matrix(self.table[_features_column(image, judge)])

    def numbers(self, column: str) -> Tensor:
        """(N,) float64."""
        return torch.tensor(self.table[column].to_pylist(), dtype=torch.float64)

    def thumbnails(self, name: str) -> np.ndarray:
        """(N, S, S, 3) float32 in [0, 1]."""
        return decode_thumbnails(self.table[f"{name}_thumbnail"].to_pylist())


@dataclass(frozen=True)
class Reference:
    """Real images of training pairs, R rows in the order of their keys."""

    table: pa.Table

    @classmethod
    def read(cls, folder: Folder, names: Iterable[str]) -> "Reference":
        """The shards of these names."""
        tables = [folder.read_table(f"{name}.parquet") for name in names]
        return cls(pa.concat_tables(tables).sort_by("key"))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def embeds(self) -> Tensor:
        """CLIP embeddings, (R, E) float32."""
        return to_matrix(self.table["image_embeds"])

    def features(self, judge: str) -> Tensor:
        """The features by a judge or by `CLIP`, (R, D) float32."""
        return to_matrix(self.table[_features_column("original", judge)])


def _features_column(image: str, judge: str) -> str:
    if judge != CLIP:
        return features_of(image, judge)
    return "image_embeds" if image == "original" else f"{image}_embeds"


def to_matrix(column: pa.ChunkedArray) -> Tensor:
    """A column of lists of one length, without nulls, as (N, E) float32."""
    fixed = column.cast(pa.list_(pa.float32(), len(column[0])))  # Parquet reads some as variable
    return torch.tensor(to_numpy(fixed))


def count_samples(folder: Folder, names: Iterable[str]) -> dict[str, int]:
    """How many captions of each split were evaluated."""
    held_out = [h for name in names for h in _column(folder, name, "held_out")]
    return {HELD_OUT: held_out.count(True), TRAINING: held_out.count(False)}


def shards_in(folder: Folder, kind: str = SAMPLES) -> list[str]:
    """The names of the shards of one kind in the folder of a finished stage."""
    return [
        file.removesuffix(".parquet")
        for file in folder.files()
        if file.startswith(f"{kind}-") and file.endswith(".parquet")
    ]


def first_samples(
    folder: Folder, names: Sequence[str], columns: Sequence[str], limit: int
) -> dict[str, list[Values]]:
    """By split, the rows with the smallest keys, at most `limit`; reads one shard at a time."""
    chosen = []
    for held_out in (True, False):
        keys = (
            key
            for name in names
            for key, flag in zip(
                _column(folder, name, "key"), _column(folder, name, "held_out"), strict=True
            )
            if flag is held_out
        )
        chosen += heapq.nsmallest(limit, keys)
    rows: list[Values] = []
    for name in names:
        table = folder.read_table(f"{name}.parquet", ["key", "held_out", *columns])
        rows += table.filter(pc.is_in(table["key"], pa.array(chosen, pa.string()))).to_pylist()
    rows.sort(key=lambda row: str(row["key"]))
    return {split: [r for r in rows if r["held_out"] == (split == HELD_OUT)] for split in SPLITS}


def _column(folder: Folder, name: str, column: str) -> list[Any]:
    values: list[Any] = folder.read_table(f"{name}.parquet", [column])[column].to_pylist()
    return values
