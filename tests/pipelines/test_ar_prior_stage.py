"""The training of an autoregressive prior, in this process."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from pipelines.artifacts import MODEL_FILE
from pipelines.config.load import load_config
from pipelines.core.folder import Folder
from pipelines.core.store import Store
from pipelines.embeddings.components import load_basis
from pipelines.stages.train import LoaderSettings, TrainModel
from pipelines.training.calibration import calibrate, training_similarities
from pipelines.training.worker import TrainingWorker
from tests.pipelines import given
from tests.pipelines.local import LocalContext, context, make
from tests.pipelines.training import TrainingContext, given_rows
from unclip.checkpoint import load_model
from unclip.models import ARPrior
from unclip.training import TrainingConfig

QUICK: TrainingConfig = replace(
    load_config("demo").priors["prior"].training,
    steps=4,
    warmup_steps=1,
    batch_size=8,
    log_every_steps=2,
    checkpoint_every_steps=2,
)


class Killed(Exception):  # noqa: N818
    pass


class KilledContext(LocalContext):
    """Dies in the middle of the training."""

    def train(self, function: Any, config: Mapping[str, Any]) -> None:
        worker = TrainingWorker(config["job"], rank=0, world_size=1, device=torch.device("cpu"))
        keep_history = worker.keep_history

        def die(step: int, values: dict[str, float]) -> None:
            keep_history(step, values)
            if step == 4:  # the checkpoint of step 2 was saved, that of step 4 is not yet
                raise Killed

        worker.keep_history = die  # type: ignore[method-assign]
        worker.run()


def stage_of(training: TrainingConfig = QUICK) -> TrainModel:
    return TrainModel(
        *given_rows(),
        given.small_ar_prior(),
        training,
        LoaderSettings(shuffle_rows=256),
        pca=given.GivenPca(),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("store")))
    for dependency in stage_of().dependencies.values():
        make(store, dependency)
    return store


def trained(store: Store, folder: Path, *, killed: bool = False) -> ARPrior:
    torch.set_num_threads(1)
    stage = stage_of()
    if killed:
        with pytest.raises(Killed):
            stage.run(context(store, stage, folder=Folder(str(folder)), kind=KilledContext))
    made = stage.run(context(store, stage, folder=Folder(str(folder)), kind=TrainingContext))
    assert (made.steps, made.model) == (4, "autoregressive_prior")
    model = load_model(made.folder.local(MODEL_FILE))
    assert isinstance(model, ARPrior)
    return model


def test_the_trained_model_holds_the_basis_and_the_edges(store: Store, tmp_path: Path) -> None:
    model = trained(store, tmp_path)
    basis = load_basis(make(store, given.GivenPca()))
    torch.testing.assert_close(model.mean, basis.mean)
    torch.testing.assert_close(model.components, basis.components[:8])
    torch.testing.assert_close(model.edges[:, -1], 4 * basis.eigenvalues[:8].sqrt())


def test_a_training_that_was_killed_ends_with_the_same_weights(
    store: Store, tmp_path: Path
) -> None:
    pipeline, resumed = (trained(store, tmp_path / str(k), killed=k) for k in (False, True))
    state = resumed.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in pipeline.state_dict().items())


def test_bins_of_the_dot_product_hold_equal_shares_of_the_training_rows(store: Store) -> None:
    stage = stage_of()
    embeddings, selection = (
        make(store, stage.embeddings),
        make(store, stage.selection),
    )
    assert stage.pca is not None
    model = replace(given.small_ar_prior(), dot_bins=4)
    calibration = calibrate(make(store, stage.pca), embeddings, selection, model)
    products = training_similarities(embeddings, selection)
    counts = torch.bucketize(products, calibration.dot_edges).bincount(minlength=4)
    assert counts.tolist() == [8, 8, 8, 8]

    shards = [(embeddings.read(name), selection.read(name)) for name in selection.shards]
    expected = []
    for rows, chosen in shards:
        kept = rows.take(chosen.filter(pc.invert(chosen["held_out"]))["row"])
        images, texts = (np.array(kept[c].to_pylist()) for c in ("image_embeds", "text_embeds"))
        expected.append((images * texts).sum(-1))
    np.testing.assert_allclose(products, np.concatenate(expected), atol=1e-5)
