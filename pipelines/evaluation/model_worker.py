"""What workers share that sample from the models of a run."""

# B rows, L context length, E width of the CLIP embeddings

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipelines.core.folder import Folder
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.inputs import Weights
from pipelines.evaluation.judging import Judges
from pipelines.evaluation.pipeline import (
    load_pipeline,
    load_trained,
    with_noise_norms,
    with_prior,
)
from pipelines.evaluation.rows import Values
from unclip.generation import Cascade
from unclip.pipeline import UnclipPipeline
from unclip.samplers import generator_for


def row_generator(seed: int, key: str, purpose: str) -> torch.Generator:
    """The generator of one row's noise for one purpose: the same on any machine, in any batch."""
    return generator_for(seed, key, purpose)


@dataclass(frozen=True)
class ModelWorker:
    """Loads the models once per process, and makes their inputs from rows."""

    weights: Weights
    config: EvaluateConfig
    folder: Folder  # of the worker's stage, which holds the inputs of its shards

    @property
    def samples(self) -> Folder:
        """The folder of the stage evaluate, whose captions analytic_dpm is fitted on."""
        return self.folder

    def tokens(self, rows: Sequence[Values]) -> Tensor:
        """Captions as the models' text encoders read them, (B, L) int64."""
        return self.pipeline.tokenize([row["caption"] for row in rows])

    def tensor(self, rows: Sequence[Values], column: str) -> Tensor:
        """A column of embeddings (B, E), or of numbers (B,)."""
        return torch.tensor([row[column] for row in rows], device=self.cascade.device)

    def generators(self, rows: Sequence[Values], purpose: str) -> list[torch.Generator]:
        """The noise of each row, which does not depend on its neighbours in the shard."""
        return [row_generator(self.config.seed, row["key"], purpose) for row in rows]

    @cached_property
    def pipeline(self) -> UnclipPipeline:
        """The trained models with the first prior, and the CLIP that they were trained with."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return self._fitted(load_pipeline(self.weights, self.config.sampling, device))

    @property
    def cascade(self) -> Cascade:
        """The trained models with the first prior."""
        return self.pipeline.cascade

    @cached_property
    def cascades(self) -> dict[str, Cascade]:
        """The trained cascade around each prior, by the prior's name."""
        first, *_ = self.weights.priors
        others = {
            name: self._fitted(with_prior(self.pipeline, load_trained(prior, self.cascade.device)))
            for name, prior in self.weights.other_priors.items()
        }
        return {first: self.cascade, **{name: made.cascade for name, made in others.items()}}

    @cached_property
    def judges(self) -> Judges:
        """What judges the images."""
        return Judges(self.config.judges)

    def _fitted(self, pipeline: UnclipPipeline) -> UnclipPipeline:
        return with_noise_norms(pipeline, self.samples, seed=self.config.seed)
