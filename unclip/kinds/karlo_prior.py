"""Karlo's diffusion prior. Its CLIP text tower is frozen."""

# B batch, E width of the CLIP embeddings

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.denoising.denoisers import prior_denoiser
from unclip.diffusion import q_sample, schedule_of
from unclip.kinds.previews import preview_diffusion_prior
from unclip.kinds.spec import ModelSpec
from unclip.models import KarloPrior, KarloPriorConfig
from unclip.objectives.batch import Batch, take, unnormalised_image_embeds
from unclip.objectives.draws import bernoulli, draw_timesteps
from unclip.objectives.row_losses import report_rows
from unclip.presets import karlo
from unclip.samplers import randn


def karlo_prior_loss(model: KarloPrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted x_0, the standardised image embedding."""
    config = model.config
    tokens = take(batch, "tokens")[0]
    x_start = model.standardise(unnormalised_image_embeds(batch, config.embed_dim))  # (B, E)
    count, device = len(x_start), x_start.device
    timesteps = draw_timesteps(batch, x_start, config.train_timesteps, generator)
    noise = randn(tuple(x_start.shape), generator=generator, device=device)
    dropped = bernoulli(config.text_dropout, count, generator, device)
    x = q_sample(x_start, timesteps, noise=noise, schedule=schedule_of(config, device))
    predicted: Tensor = model(x, timesteps, model.condition(tokens, None, dropped))
    report_rows(timesteps, (predicted.float() - x_start).square().mean(1))
    return F.mse_loss(predicted.float(), x_start)


SPEC = ModelSpec(
    role="prior",
    kind="karlo",
    config=KarloPriorConfig,
    network=KarloPrior,
    loss=karlo_prior_loss,
    batch_fields=("image_embeds", "image_norm", "tokens"),
    denoiser=prior_denoiser,
    preview=preview_diffusion_prior,
    presets={"karlo": lambda: karlo().prior},
)
