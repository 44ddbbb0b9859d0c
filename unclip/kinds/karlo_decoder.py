"""Karlo's decoder. Its CLIP text tower is frozen."""

# B batch, N images shown, S image size

import torch
from torch import Tensor

from unclip.denoising.denoisers import decoder_denoiser
from unclip.diffusion import schedule_of
from unclip.kinds.previews import preview_decoder
from unclip.kinds.spec import ModelSpec
from unclip.models import KarloDecoder, KarloDecoderConfig
from unclip.objectives.batch import Batch, expect, take, unnormalised_image_embeds
from unclip.objectives.denoising import denoising_loss
from unclip.objectives.draws import bernoulli, draw_timesteps, dropout_from
from unclip.presets import karlo


def karlo_decoder_loss(model: KarloDecoder, batch: Batch, generator: torch.Generator) -> Tensor:
    """L_hybrid (Nichol and Dhariwal 2021, eq. 16) of ε and the variance.

    Image embedding and caption are dropped independently.
    """
    config = model.config
    tokens = take(batch, "tokens")[0]
    pixels = expect(batch, "pixels", (3, config.image_size, config.image_size)).float()
    count, device = len(pixels), pixels.device
    condition = model.condition(
        unnormalised_image_embeds(batch, config.embed_dim),
        tokens,
        drop_image=bernoulli(config.image_dropout, count, generator, device),
        drop_text=bernoulli(config.text_dropout, count, generator, device),
    )
    with dropout_from(generator, rate=config.unet.dropout, device=device):
        return denoising_loss(
            lambda x, timesteps: model(x, timesteps, condition),
            pixels,
            draw_timesteps(batch, pixels, config.train_timesteps, generator),
            schedule=schedule_of(config, device),
            prediction=config.prediction,
            learned_variance=config.learned_variance,
            generator=generator,
        )


def preview(model: KarloDecoder, batch: Batch, generator: torch.Generator) -> Tensor:
    """N true images, then N decoded ones; (2N, 3, S, S) in [-1, 1]."""
    image_embeds = unnormalised_image_embeds(batch, model.config.embed_dim)
    return preview_decoder(model, batch, image_embeds, generator)


SPEC = ModelSpec(
    role="decoder",
    kind="karlo",
    config=KarloDecoderConfig,
    network=KarloDecoder,
    loss=karlo_decoder_loss,
    batch_fields=("pixels", "image_embeds", "image_norm", "tokens"),
    denoiser=decoder_denoiser,
    preview=preview,
    presets={"karlo": lambda: karlo().decoder},
)
