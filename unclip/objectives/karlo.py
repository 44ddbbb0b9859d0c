"""What Karlo's networks learn from; their text towers stay as they are.

Karlo reads image embeddings as CLIP makes them, while a batch has them unit-norm: "image_norm"
gives them their length back.
"""

# B batch, S image size, s low-resolution size, E embedding width

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.diffusion import make_schedule, q_sample
from unclip.models import KarloDecoder, KarloPrior, KarloUpsampler
from unclip.objectives.losses import (
    Batch,
    bernoulli,
    denoising_loss,
    draw_timesteps,
    dropout_from,
    expect,
    take,
)
from unclip.samplers import randn


def karlo_prior_loss(model: KarloPrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted x_0, the standardised image embedding."""
    config = model.config
    tokens = take(batch, "tokens")[0]
    x_start = model.standardise(_own_length(batch, config.embed_dim))  # (B, E)
    count, device = len(x_start), x_start.device
    schedule = make_schedule(config.schedule, train_timesteps=config.train_timesteps, device=device)
    timesteps = draw_timesteps(count, config.train_timesteps, generator, device)
    noise = randn(tuple(x_start.shape), generator=generator, device=device)
    dropped = bernoulli(config.text_dropout, count, generator, device)
    x = q_sample(x_start, timesteps, noise=noise, schedule=schedule)
    predicted: Tensor = model(x, timesteps, model.condition(tokens, None, dropped))
    return F.mse_loss(predicted.float(), x_start)


def karlo_decoder_loss(model: KarloDecoder, batch: Batch, generator: torch.Generator) -> Tensor:
    """L_hybrid on ε and variance, with the image and the caption dropped independently."""
    config = model.config
    tokens = take(batch, "tokens")[0]
    pixels = expect(batch, "pixels", (3, config.image_size, config.image_size)).float()
    count, device = len(pixels), pixels.device
    condition = model.condition(
        _own_length(batch, config.embed_dim),
        tokens,
        drop_image=bernoulli(config.image_dropout, count, generator, device),
        drop_text=bernoulli(config.text_dropout, count, generator, device),
    )
    with dropout_from(generator, rate=config.unet.dropout, device=device):
        return denoising_loss(
            lambda x, timesteps: model(x, timesteps, condition),
            pixels,
            draw_timesteps(count, config.train_timesteps, generator, device),
            schedule=make_schedule(
                config.schedule, train_timesteps=config.train_timesteps, device=device
            ),
            prediction="epsilon",
            learned_variance=True,
            generator=generator,
        )


def karlo_upsampler_loss(model: KarloUpsampler, batch: Batch, generator: torch.Generator) -> Tensor:
    """The sum of both networks' errors in ε: at any timestep, and at 0, the last one's only step.

    Of the published weights, the last network's were also trained against a discriminator, which
    is not done here: further training makes its pictures smoother.
    """
    config = model.config
    pixels = expect(batch, "pixels", (3, config.image_size, config.image_size)).float()
    count, device = len(pixels), pixels.device
    enlarged = model.condition(F.interpolate(pixels, size=config.low_res_size, mode="area"))
    schedule = make_schedule(config.schedule, train_timesteps=config.train_timesteps, device=device)
    timesteps = draw_timesteps(count, config.train_timesteps, generator, device)
    with dropout_from(generator, rate=config.unet.dropout, device=device):
        first, last = (
            denoising_loss(
                lambda x, t, network=network: network(x, t, enlarged),  # type: ignore[misc]
                pixels,
                at,
                schedule=schedule,
                prediction="epsilon",
                generator=generator,
            )
            for network, at in (
                (model.forward, timesteps),
                (model.forward_last, torch.zeros_like(timesteps)),
            )
        )
    return first + last


def _own_length(batch: Batch, width: int) -> Tensor:
    """Image embeddings as CLIP made them; (B, E) float32."""
    unit, norm = expect(batch, "image_embeds", (width,)), expect(batch, "image_norm", ())
    return unit.float() * norm.float()[:, None]
