"""Load the models of a run as one pipeline, and make the variants that an evaluation compares."""

# N rows, L context length, E width of the CLIP embeddings

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipelines.artifacts import MODEL_FILE, TrainedModel
from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.evaluation.inputs import Weights
from pipelines.evaluation.rows import input_file, shard_name
from pipelines.evaluation.samples import to_matrix
from unclip.checkpoint import load_model
from unclip.clip.frozen import FrozenClip
from unclip.generation import Cascade, SamplingConfig, with_prior_noise_norms
from unclip.generation.config import PRIOR_PROVIDES
from unclip.kinds import build, spec_of
from unclip.pipeline import UnclipPipeline
from unclip.pretrained.folder import share_text_tower
from unclip.samplers import NOISE_NORMS, find_sampler, needs_of

log = logging.getLogger(__name__)

UNTRAINED_STEPS = 4  # more steps cost time, and random weights draw noise anyway
COLUMNS = ["caption", "text_embeds", "image_embeds", "image_norm"]  # to estimate noise norms


def load_pipeline(
    weights: Weights, sampling: SamplingConfig, device: torch.device
) -> UnclipPipeline:
    """The models in evaluation mode on one device, with the CLIP that they were trained with.

    Captions are sampled with the first of the priors. For the sampler analytic_dpm, pass the result
    through `with_noise_norms`.
    """
    clip = FrozenClip.load(weights.clip.folder.local(), device=device)
    cascade = make_cascade(
        None if weights.prior is None else load_trained(weights.prior, device),
        load_trained(weights.decoder, device),
        {name: load_trained(model, device) for name, model in weights.upsamplers.items()},
        sampling,
    )
    log.info("Loaded %s on %s, with the CLIP %s", ", ".join(cascade.models), device, clip.name)
    return UnclipPipeline(cascade, clip)


def load_trained(model: TrainedModel, device: torch.device) -> nn.Module:
    """The averaged weights of a training."""
    loaded: nn.Module = load_model(model.folder.local(MODEL_FILE), device=device)
    return loaded


def make_cascade(
    prior: nn.Module | None,
    decoder: nn.Module,
    upsamplers: Mapping[str, nn.Module],
    sampling: SamplingConfig,
) -> Cascade:
    """The models as one object."""
    share_text_tower(prior, decoder)
    return Cascade(prior, decoder, upsamplers, sampling)


def with_prior(pipeline: UnclipPipeline, prior: nn.Module) -> UnclipPipeline:
    """The pipeline with another prior."""
    cascade = replace(pipeline.cascade, prior=prior, prior_noise_norms=None)
    return replace(pipeline, cascade=cascade)


def untrained_like(cascade: Cascade, *, seed: int) -> Cascade:
    """The same architectures with random weights, sampled in few steps and without guidance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = {name: build(model.config) for name, model in cascade.models.items()}
    models = {name: model.to(cascade.device).eval() for name, model in models.items()}
    upsamplers = {name: models[name] for name in cascade.upsamplers}
    sampling = _untrained_sampling(cascade.sampling)
    return make_cascade(models.get("prior"), models["decoder"], upsamplers, sampling)


def _untrained_sampling(sampling: SamplingConfig) -> SamplingConfig:
    steps = UNTRAINED_STEPS
    return replace(
        sampling,
        prior=replace(
            sampling.prior, sampler="ddim", num_inference_steps=steps, guidance_scale=1.0
        ),
        decoder=replace(sampling.decoder, num_inference_steps=steps, guidance_scale=1.0),
        upsamplers={
            name: replace(upsampler, num_inference_steps=1)
            for name, upsampler in sampling.upsamplers.items()
        },
    )


def with_noise_norms(pipeline: UnclipPipeline, folder: Folder, *, seed: int) -> UnclipPipeline:
    """The pipeline with the estimate that analytic_dpm needs; unchanged if nothing needs it.

    folder: of the stage evaluate. The estimate comes from its first shard, so all workers use the
    same one. Raises `PipelineError` if the folder has no shard yet.
    """
    cascade = pipeline.cascade
    if not _needs_noise_norms(cascade):
        return pipeline
    table = folder.read_table(_first_shard(folder), COLUMNS)
    log.info("Estimating the noise norms of the prior from %d captions", table.num_rows)
    image_embeds = to_matrix(table["image_embeds"])
    norms = torch.tensor(table["image_norm"].to_pylist())
    batch = {
        "tokens": pipeline.tokenize(table["caption"].to_pylist()),
        "text_embeds": to_matrix(table["text_embeds"]).to(cascade.device),
        "image_embeds": scale_embeds(image_embeds, norms, cascade).to(cascade.device),
    }
    generator = torch.Generator().manual_seed(seed)
    return replace(pipeline, cascade=with_prior_noise_norms(cascade, batch, generator=generator))


def scale_embeds(image_embeds: Tensor, norms: Tensor, cascade: Cascade) -> Tensor:
    """Unit-norm embeddings (N, E), times their norms (N,) unless the decoder reads unit norms."""
    return image_embeds if cascade.decoder.config.unit_norm else image_embeds * norms[:, None]


def _needs_noise_norms(cascade: Cascade) -> bool:
    sampler = find_sampler(
        cascade.sampling.prior.sampler, what="prior sampler", provided=PRIOR_PROVIDES
    )
    is_diffusion = cascade.prior is not None and spec_of(cascade.prior).denoiser is not None
    return is_diffusion and NOISE_NORMS in needs_of(sampler)


def _first_shard(folder: Folder) -> str:
    """The inputs of the first shard, or the shard itself once the stage is done."""
    name = shard_name(0)
    for file in (input_file(name), f"{name}.parquet"):
        if folder.exists(file):
            return file
    raise PipelineError(
        "The prior's sampler needs an estimate from the captions of the stage evaluate, and "
        f"{folder.url} has none. Run `unclip run --only evaluate` first, or choose another "
        "sampler, such as --set evaluate.sampling.prior.sampler=ddim."
    )
