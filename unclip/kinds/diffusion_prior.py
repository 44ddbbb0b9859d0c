"""The diffusion prior of the paper (section 2.2)."""

# B batch, L tokens of the captions, E width of the CLIP embeddings

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.denoising.denoisers import prior_denoiser
from unclip.diffusion import q_sample, schedule_of
from unclip.kinds.previews import preview_diffusion_prior
from unclip.kinds.spec import ModelSpec
from unclip.models import DiffusionPrior, DiffusionPriorConfig
from unclip.objectives.batch import Batch, expect, take
from unclip.objectives.draws import bernoulli, draw_timesteps
from unclip.objectives.row_losses import report_rows
from unclip.presets import paper, small, tiny
from unclip.samplers import randn


def prior_loss(model: DiffusionPrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """|ẑ_i - z_i|² of unit-norm image embeddings, averaged over rows (section 2.2 of the paper)."""
    config = model.config
    text_embeds, tokens = take(batch, "text_embeds", "tokens")
    image_embeds = expect(batch, "image_embeds", (config.embed_dim,))
    x_start = image_embeds.float() * config.embedding_scale  # (B, E)
    timesteps = draw_timesteps(batch, x_start, config.train_timesteps, generator)
    noise = randn(tuple(x_start.shape), generator=generator, device=x_start.device)
    dropped = bernoulli(config.text_dropout, len(x_start), generator, x_start.device)
    condition = model.condition(tokens, text_embeds.float(), dropped)
    schedule = schedule_of(config, x_start.device)
    x = q_sample(x_start, timesteps, noise=noise, schedule=schedule)
    predicted: Tensor = model(x, timesteps, condition)
    # In units of the unit-norm embedding, so that losses at different scales can be compared.
    unit = config.embed_dim / config.embedding_scale**2
    report_rows(timesteps, unit * (predicted.float() - x_start).square().mean(1))
    return F.mse_loss(predicted.float(), x_start) / config.embedding_scale**2 * config.embed_dim


SPEC = ModelSpec(
    role="prior",
    kind="diffusion",
    config=DiffusionPriorConfig,
    network=DiffusionPrior,
    loss=prior_loss,
    batch_fields=("image_embeds", "text_embeds", "tokens"),
    denoiser=prior_denoiser,
    preview=preview_diffusion_prior,
    presets={
        "tiny": lambda: tiny().prior,
        "small": lambda: small().prior,
        "paper": lambda: paper().prior,
    },
)
