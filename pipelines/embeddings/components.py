"""The principal components of the training rows' image embeddings, in one pass over the shards."""

# W width of the embeddings

import logging
from dataclasses import dataclass

import pyarrow as pa
import torch

from pipelines.artifacts import BASIS_FILE, EmbeddingShards, PcaBasisFile, SelectionShards
from pipelines.artifacts.schema import MOMENTS, pca_basis
from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.core.tables import to_column, to_numpy
from pipelines.data.shard_reader import training_embeds
from unclip.embeddings.pca import Moments, PcaBasis, fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MomentsWorker:
    """Callable on the names of some shards: computes the moments of their training rows."""

    embeddings: EmbeddingShards
    selection: SelectionShards

    def __call__(self, names: tuple[str, ...], out: ShardWriter) -> Metadata:
        """Writes one row of `MOMENTS`."""
        moments = Moments.empty(self.embeddings.width)
        for name in names:
            for _, embeds in training_embeds(self.embeddings.url(name), self.selection.url(name)):
                moments = moments.add(torch.from_numpy(embeds))
        row = {
            "count": [moments.count],
            "sum": [moments.total.numpy()],
            "outer": [moments.outer.flatten().numpy()],
        }
        out.write(pa.table(row, schema=MOMENTS))
        return {}


def fit_basis(
    folder: Folder, groups: tuple[str, ...], embeddings: EmbeddingShards, dimensions: int
) -> float:
    """Write `basis.parquet`; return the share of the variance that `dimensions` components keep."""
    moments = Moments.empty(embeddings.width)
    for name in groups:
        row = folder.read_table(f"{name}.parquet").to_pydict()
        outer = torch.tensor(row["outer"][0], dtype=torch.float64).view(embeddings.width, -1)
        total = torch.tensor(row["sum"][0], dtype=torch.float64)
        moments = moments.merge(Moments(count=row["count"][0], total=total, outer=outer))
    log.info("fitting principal components to %d embeddings", moments.count)
    basis = fit(moments)
    columns = {
        "component": to_column(basis.components.numpy()),
        "eigenvalue": pa.array(basis.eigenvalues.numpy()),
        "mean": to_column(basis.mean.expand(embeddings.width, -1).numpy()),
    }
    schema = pca_basis(embeddings.width).with_metadata(
        {"clip_name": embeddings.clip_name, "clip_digest": embeddings.clip_digest}
    )
    folder.write_table(BASIS_FILE, pa.table(columns, schema=schema))
    return float(basis.explained_variance()[dimensions - 1])


def load_basis(stored: PcaBasisFile) -> PcaBasis:
    """The basis that `fit_basis` wrote."""
    table = stored.folder.read_table(BASIS_FILE, schema=pca_basis(stored.width))
    components, mean = (torch.tensor(to_numpy(table[n])) for n in ("component", "mean"))
    eigenvalues = torch.tensor(table["eigenvalue"].to_pylist())
    return PcaBasis(mean=mean[0], components=components, eigenvalues=eigenvalues)
