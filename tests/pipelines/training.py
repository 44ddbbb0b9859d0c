"""Stages that train in this process, on given pairs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from pipelines.artifacts import EmbeddingShards, PairShards, SelectionShards
from pipelines.core.stage import Stage
from pipelines.training.training_job import TrainingJob
from pipelines.training.worker import TrainingWorker
from tests.pipelines import given
from tests.pipelines.given_pairs import GivenPairs, GivenVerdicts
from tests.pipelines.local import LocalContext


class TrainingContext(LocalContext):
    """The context of one worker."""

    def train(self, function: Any, config: Mapping[str, Any]) -> None:
        job: TrainingJob = config["job"]
        TrainingWorker(job, rank=0, world_size=1, device=torch.device("cpu")).run()


class GivenRows(NamedTuple):
    """The first inputs of a training."""

    pairs: Stage[PairShards]
    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]


def given_rows() -> GivenRows:
    """Packaged images, embedded by the given CLIP."""
    pairs = GivenPairs(48)
    embeddings = given.GivenEmbeddings(pairs, GivenVerdicts(pairs), given.GivenClip())
    return GivenRows(pairs, embeddings, given.GivenSelection(embeddings))
