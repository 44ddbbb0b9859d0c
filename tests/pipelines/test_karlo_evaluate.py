"""Evaluation workers generate with Karlo's models."""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.core.store import Store
from pipelines.evaluation.generate import GenerationWorker
from pipelines.evaluation.inputs import Sources
from pipelines.evaluation.rows import gather
from pipelines.stages.evaluate import Evaluate
from tests.pipelines import given
from tests.pipelines.local import make, work
from tests.unclip import karlo_configs
from unclip.interop import KARLO_SAMPLING
from unclip.models import KarloDecoder, KarloPrior

TEXT = replace(karlo_configs.TEXT, vocab_size=49408, context_length=77, width=64, embed_dim=64)
UPSAMPLING = KARLO_SAMPLING.upsamplers["upsampler_1"]
SAMPLING = replace(
    KARLO_SAMPLING,
    prior=replace(KARLO_SAMPLING.prior, num_inference_steps=2),
    decoder=replace(KARLO_SAMPLING.decoder, num_inference_steps=2),
    upsamplers={"upsampler_1": replace(UPSAMPLING, num_inference_steps=2)},
)


def karlo_stage() -> Evaluate:
    config = given.evaluate_config(
        held_out_samples=3, training_samples=2, probe_samples=2, batch_size=3, sampling=SAMPLING
    )
    prior = replace(karlo_configs.PRIOR, embed_dim=64, text_encoder=TEXT)
    decoder = replace(karlo_configs.DECODER, embed_dim=64, text_encoder=TEXT)
    return replace(
        given.evaluate_stage(config),
        priors=given.given_models(prior=prior),
        decoder=given.GivenModel(decoder, name="decoder"),
        upsamplers=given.given_models(upsampler_1=karlo_configs.UPSAMPLER),
    )


def worker_of(stage: Evaluate, store: Store, folder: Path) -> GenerationWorker:
    weights = stage.weights(partial(make, store))
    return GenerationWorker(weights, stage.config, Folder(str(folder)))


def prepare(worker: GenerationWorker, stage: Evaluate, store: Store) -> list[str]:
    names = ("pairs", "embeddings", "selection")
    sources = Sources(**{name: make(store, getattr(stage, name)) for name in names})
    return gather(sources, stage.config, worker.folder).samples


def generated(worker: GenerationWorker, name: str) -> pa.Table:
    return work(worker, name, worker.schema)[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


def test_a_worker_generates_with_karlos_models_from_embeddings_of_their_own_length(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = karlo_stage()
    worker = worker_of(stage, store, tmp_path)
    names = prepare(worker, stage, store)
    read: list[torch.Tensor] = []
    condition = KarloDecoder.condition
    monkeypatch.setattr(
        KarloDecoder,
        "condition",
        lambda self, embeds, *rest, **named: (
            read.append(embeds) or condition(self, embeds, *rest, **named)  # type: ignore[func-returns-value]
        ),
    )
    table = generated(worker, names[0])
    assert isinstance(worker.cascade.prior, KarloPrior)
    assert worker.pipeline.tokenize(["a heart"]).shape == (1, 77)
    sizes = {Image.open(io.BytesIO(p)).size for p in table["generated"].to_pylist()}
    assert sizes == {(16, 16)}
    assert table["generated_middle"].to_pylist() == [[]] * table.num_rows
    predicted = torch.tensor(table["predicted_image_embeds"].to_pylist())
    torch.testing.assert_close(predicted.norm(dim=-1), torch.ones(len(predicted)))
    norms = set(torch.tensor(table["image_norm"].to_pylist()).round(decimals=3).tolist())
    probed = {v for z in read for v in z.norm(dim=-1).float().round(decimals=3).tolist()}
    assert norms & probed
    assert not any(abs(norm - 1) < 1e-3 for norm in probed)


def test_analytic_dpm_is_estimated_from_the_captions_of_the_evaluation(
    store: Store, tmp_path: Path
) -> None:
    stage = karlo_stage()
    sampling = replace(SAMPLING, prior=replace(SAMPLING.prior, sampler="analytic_dpm"))
    stage = replace(stage, config=replace(stage.config, sampling=sampling))
    worker = worker_of(stage, store, tmp_path)
    with pytest.raises(PipelineError, match="unclip run --only evaluate"):
        _ = worker.pipeline
    names = prepare(worker, stage, store)
    estimated = worker.cascade.prior_noise_norms
    assert estimated is not None
    worker.folder.write_table(f"{names[0]}.parquet", generated(worker, names[0]))
    worker.folder.remove_hidden()  # as when the stage is done
    again = worker_of(stage, store, tmp_path).cascade.prior_noise_norms
    assert again is not None
    torch.testing.assert_close(again, estimated)
