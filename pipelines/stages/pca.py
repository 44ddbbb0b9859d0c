"""The principal components of the image embeddings."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipelines.artifacts import EmbeddingShards, PcaBasisFile, SelectionShards
from pipelines.artifacts.schema import MOMENTS
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.embeddings.components import MomentsWorker, fit_basis
from unclip.config import Config, ConfigError

GROUPS = 64  # at most, of shards; one worker computes the sums of a group


@dataclass(frozen=True, kw_only=True)
class PcaConfig(Config):
    """How many components count as kept; all of them are stored."""

    tag: ClassVar[str] = "pca"

    dimensions: int  # components that count as kept; 319 in the paper

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise ConfigError(f"dimensions={self.dimensions} must be at least 1; the paper has 319")


@dataclass(frozen=True)
class Pca(Stage[PcaBasisFile]):
    """Mean, principal components and eigenvalues of the training rows' image embeddings."""

    kind: ClassVar[str] = "pca"
    version: ClassVar[int] = 2  # 2: shards named by content
    artifact: ClassVar[type[Artifact]] = PcaBasisFile

    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    config: PcaConfig

    def run(self, ctx: Context) -> PcaBasisFile:
        """Compute sums over groups of shards, then fit once."""
        embeddings, selection = ctx.load(self.embeddings), ctx.load(self.selection)
        names = sorted(name for name, rows in selection.training.items() if rows)
        groups = [tuple(map(str, part)) for part in np.array_split(names, min(GROUPS, len(names)))]
        items = {f"moments/{i:02d}": group for i, group in enumerate(groups)}
        worker = MomentsWorker(embeddings, selection)
        ctx.map_shards(worker, items, schema=MOMENTS, unit="groups")
        dimensions = self.config.dimensions
        explained = ctx.call(fit_basis, ctx.folder, tuple(items), embeddings, dimensions)
        return PcaBasisFile(
            ctx.folder, width=embeddings.width, explained=explained, dimensions=dimensions
        )
