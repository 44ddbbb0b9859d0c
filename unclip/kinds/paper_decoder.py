"""The decoder of the paper (section 2.1)."""

# B batch, N images shown, S image size

import torch
from torch import Tensor

from unclip.denoising.denoisers import decoder_denoiser
from unclip.diffusion import schedule_of
from unclip.kinds.previews import preview_decoder
from unclip.kinds.spec import ModelSpec
from unclip.models import Decoder, DecoderConfig
from unclip.objectives.batch import Batch, expect, take
from unclip.objectives.denoising import denoising_loss
from unclip.objectives.draws import bernoulli, draw_timesteps, dropout_from
from unclip.presets import paper, small, tiny


def decoder_loss(model: Decoder, batch: Batch, generator: torch.Generator) -> Tensor:
    """Denoising loss; image embedding and caption are dropped independently."""
    config = model.config
    tokens = take(batch, "tokens")[0]
    image_embeds = expect(batch, "image_embeds", (config.embed_dim,))
    pixels = expect(batch, "pixels", (3, config.image_size, config.image_size)).float()
    count, device = len(pixels), pixels.device
    condition = model.condition(
        image_embeds.float(),
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
            min_snr_gamma=config.min_snr_gamma,
            generator=generator,
        )


def preview(model: Decoder, batch: Batch, generator: torch.Generator) -> Tensor:
    """N true images, then N decoded ones; (2N, 3, S, S) in [-1, 1]."""
    return preview_decoder(model, batch, batch["image_embeds"], generator)


SPEC = ModelSpec(
    role="decoder",
    kind="paper",
    config=DecoderConfig,
    network=Decoder,
    loss=decoder_loss,
    batch_fields=("pixels", "image_embeds", "tokens"),
    denoiser=decoder_denoiser,
    preview=preview,
    presets={
        "tiny": lambda: tiny().decoder,
        "small": lambda: small().decoder,
        "paper": lambda: paper().decoder,
    },
)
