"""The principal components of the image embeddings, in one pass over the shards."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.artifacts import EmbeddingShards, PcaBasisFile, SelectionShards
from pipelines.artifacts.schema import pca_basis
from pipelines.core.stage import Artifact, Context, Metadata, Stage
from pipelines.core.store import Folder
from pipelines.stages.embed import to_array, to_lists
from unclip.config import Config, ConfigError

if TYPE_CHECKING:
    from unclip.embeddings.pca import PcaBasis

GROUPS = 64  # of shards, each summed up by one worker

MOMENTS = pa.schema(
    [
        pa.field("count", pa.int64(), nullable=False),
        pa.field("sum", pa.list_(pa.float64()), nullable=False),  # (W,)
        pa.field("outer", pa.list_(pa.float64()), nullable=False),  # (W * W,)
    ]
)


@dataclass(frozen=True, kw_only=True)
class PcaConfig(Config):
    """How many components count as kept; all of them are stored."""

    tag: ClassVar[str] = "pca"

    dimensions: int  # components that count as kept; 319 in the paper

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise ConfigError(f"dimensions={self.dimensions} must be at least 1; the paper has 319")


@dataclass(frozen=True)
class MomentsWorker:
    """Callable on the names of some shards: sums up their training rows."""

    embeddings: EmbeddingShards
    selection: SelectionShards

    def __call__(self, names: tuple[str, ...]) -> tuple[pa.Table, Metadata]:
        """Returns one row of `MOMENTS`."""
        import torch

        from unclip.embeddings.pca import Moments

        moments = Moments.empty(self.embeddings.width)
        for name in names:
            chosen = self.selection.read(name)
            rows = chosen.filter(pc.invert(chosen["held_out"]))["row"]
            vectors = to_array(self.embeddings.read(name, ["image_embeds"])["image_embeds"])
            moments = moments.add(torch.from_numpy(vectors[rows.to_numpy()]))
        row = {
            "count": [moments.count],
            "sum": [moments.total.numpy()],
            "outer": [moments.outer.flatten().numpy()],
        }
        return pa.table(row, schema=MOMENTS), {}


@dataclass(frozen=True)
class Pca(Stage[PcaBasisFile]):
    """Mean, components by falling eigenvalue and eigenvalues of the training rows' embeddings."""

    kind: ClassVar[str] = "pca"
    artifact: ClassVar[type[Artifact]] = PcaBasisFile

    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    config: PcaConfig

    def run(self, ctx: Context) -> PcaBasisFile:
        """Sum up in groups of shards, then fit once."""
        embeddings, selection = ctx.load(self.embeddings), ctx.load(self.selection)
        names = [name for name, rows in selection.rows.items() if rows]
        groups = [tuple(map(str, part)) for part in np.array_split(names, min(GROUPS, len(names)))]
        items = {f"moments/{i:02d}": group for i, group in enumerate(groups)}
        worker = MomentsWorker(embeddings, selection)
        ctx.map_shards(worker, items, schema=MOMENTS, unit="groups")
        explained = ctx.call(fit_basis, ctx.folder, tuple(items), embeddings, self.config)
        return PcaBasisFile(
            ctx.folder,
            width=embeddings.width,
            explained=explained,
            dimensions=self.config.dimensions,
        )


def fit_basis(
    folder: Folder, groups: tuple[str, ...], embeddings: EmbeddingShards, config: PcaConfig
) -> float:
    """Write `basis.parquet`; the share of the variance that the kept dimensions explain."""
    import torch

    from unclip.embeddings.pca import Moments, fit

    moments = Moments.empty(embeddings.width)
    for name in groups:
        row = folder.read_table(f"{name}.parquet").to_pydict()
        outer = torch.tensor(row["outer"][0], dtype=torch.float64).view(embeddings.width, -1)
        total = torch.tensor(row["sum"][0], dtype=torch.float64)
        moments = moments.merge(Moments(count=row["count"][0], total=total, outer=outer))
    basis = fit(moments)
    columns = {
        "component": to_lists(basis.components.numpy()),
        "eigenvalue": pa.array(basis.eigenvalues.numpy()),
        "mean": to_lists(basis.mean.expand(embeddings.width, -1).numpy()),
    }
    schema = pca_basis(embeddings.width).with_metadata(
        {"clip_name": embeddings.clip_name, "clip_digest": embeddings.clip_digest}
    )
    folder.write_table("basis.parquet", pa.table(columns, schema=schema))
    return float(basis.explained_variance()[config.dimensions - 1])


def load_basis(stored: PcaBasisFile) -> "PcaBasis":
    """What `fit_basis` wrote."""
    import torch

    from unclip.embeddings.pca import PcaBasis

    table = stored.folder.read_table("basis.parquet")
    components, mean = (torch.tensor(to_array(table[n])) for n in ("component", "mean"))
    eigenvalues = torch.tensor(table["eigenvalue"].to_pylist())
    return PcaBasis(mean=mean[0], components=components, eigenvalues=eigenvalues)
