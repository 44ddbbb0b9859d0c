"""Previews of models in training: true data first, then the model's output for the same rows."""

# B batch, N = min(B, COLUMNS) rows shown, E width of the CLIP embeddings, S image size

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.denoising.denoisers import decoder_denoiser, prior_denoiser, without_variance
from unclip.diffusion import schedule_of
from unclip.objectives.batch import Batch
from unclip.samplers import Denoise, ddim, randn

COLUMNS = 8  # rows of the batch that are shown, next to each other
PREVIEW_STEPS = 20


def sample_with_ddim(
    model: Any, denoise: Denoise, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Sample x_0 of the given shape in a few deterministic steps; x_T is drawn on the generator."""
    device = next(model.parameters()).device
    return ddim(
        denoise,
        randn(shape, generator=generator, device=device),
        schedule=schedule_of(model.config, device),
        num_inference_steps=min(PREVIEW_STEPS, model.config.train_timesteps),
        eta=0.0,
    )


@torch.no_grad()
def preview_decoder(
    model: Any, batch: Batch, image_embeds: Tensor, generator: torch.Generator
) -> Tensor:
    """N true images, then N decoded ones; (2N, 3, S, S) in [-1, 1].

    image_embeds: (B, E), with the norm that the decoder expects.
    """
    truth = batch["pixels"][:COLUMNS]
    denoise = decoder_denoiser(
        model,
        image_embeds[:COLUMNS],
        batch["tokens"][:COLUMNS],
        guidance_scale=1.0,
        dynamic_threshold=None,
    )
    made = sample_with_ddim(model, without_variance(denoise), tuple(truth.shape), generator)
    return torch.cat([truth, made.clamp(-1, 1)])


@torch.no_grad()
def preview_upsampler(
    model: Any, denoiser: Any, batch: Batch, generator: torch.Generator
) -> Tensor:
    """N true images, then N low-resolution inputs, then N outputs; (3N, 3, S, S) in [-1, 1].

    denoiser: as `ModelSpec.denoiser`. The inputs are enlarged without interpolation.
    """
    truth = batch["pixels"][:COLUMNS]
    low_res = F.interpolate(truth, size=model.config.low_res_size, mode="area")
    enlarged = model.condition(low_res)
    drawn = sample_with_ddim(model, denoiser(model, enlarged), tuple(truth.shape), generator)
    given = F.interpolate(low_res, size=truth.shape[-1], mode="nearest")
    return torch.cat([truth, given, model.to_pixels(drawn, enlarged).clamp(-1, 1)])


@torch.no_grad()
def preview_diffusion_prior(model: Any, batch: Batch, generator: torch.Generator) -> Tensor:
    """`similarity_maps` of the predicted image embeddings; (2, 3, N, N)."""
    tokens, truth = batch["tokens"][:COLUMNS], batch["image_embeds"][:COLUMNS]
    text_embeds = batch.get("text_embeds", truth)[:COLUMNS]  # Karlo's prior ignores them
    denoise = prior_denoiser(model, tokens, text_embeds, guidance_scale=1.0)
    drawn = sample_with_ddim(model, denoise, tuple(truth.shape), generator)
    return similarity_maps(truth, model.to_image_space(drawn))


def preview_sampled_prior(
    model: Any, batch: Batch, generator: torch.Generator, sample: Callable[..., Tensor]
) -> Tensor:
    """The same for a prior that is no diffusion model. sample: as `ModelSpec.sample`."""
    rows = {name: batch[name][:COLUMNS] for name in ("tokens", "text_embeds")}
    drawn = sample(model, **rows, guidance_scale=1.0, temperature=1.0, generator=generator)
    return similarity_maps(batch["image_embeds"][:COLUMNS], drawn)


def similarity_maps(truth: Tensor, predicted: Tensor) -> Tensor:
    """Cosine similarities of embeddings as two grey images; (2, 3, N, N) in [-1, 1].

    truth, predicted: (N, E) of the same rows. The first image shows the cosines between the true
    embeddings, the second those of predicted (rows) with true ones (columns). A good prior makes
    the second image look like the first, with a bright diagonal.
    """
    unit = F.normalize(truth.float(), dim=-1)
    of_truth = unit @ unit.T
    of_predicted = F.normalize(predicted.float(), dim=-1) @ unit.T
    maps = torch.stack([of_truth, of_predicted]).clamp(-1, 1)  # (2, N, N)
    return maps[:, None].expand(-1, 3, -1, -1)
