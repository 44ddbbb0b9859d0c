"""The objectives of the paper's models; a batch is as the package describes it."""

# B batch, C channels, S image size, s low-resolution size, L context length, E embedding width

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.degradations import degrade
from unclip.diffusion import make_schedule, q_sample
from unclip.models import (
    ARPrior,
    Decoder,
    DiffusionPrior,
    Upsampler,
)
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


def prior_loss(model: DiffusionPrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted image embedding (section 2.2 of the paper)."""
    config = model.config
    text_embeds, tokens = take(batch, "text_embeds", "tokens")
    image_embeds = expect(batch, "image_embeds", (config.embed_dim,))
    schedule = make_schedule(
        config.schedule, train_timesteps=config.train_timesteps, device=image_embeds.device
    )
    x_start = image_embeds.float() * config.embedding_scale  # (B, E)
    timesteps = draw_timesteps(len(x_start), config.train_timesteps, generator, x_start.device)
    noise = randn(tuple(x_start.shape), generator=generator, device=x_start.device)
    dropped = bernoulli(config.text_dropout, len(x_start), generator, x_start.device)
    condition = model.condition(tokens, text_embeds.float(), dropped)
    x = q_sample(x_start, timesteps, noise=noise, schedule=schedule)
    predicted: Tensor = model(x, timesteps, condition)
    # Over the square of the scale, so that losses of different scales compare.
    return F.mse_loss(predicted.float(), x_start) / config.embedding_scale**2 * config.embed_dim


def ar_prior_loss(model: ARPrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean cross entropy of the codes, in nats a code (section 2.2 of the paper)."""
    config = model.config
    text_embeds, tokens = take(batch, "text_embeds", "tokens")
    image_embeds = expect(batch, "image_embeds", (config.embed_dim,))
    codes = model.encode(image_embeds)  # (B, K)
    dots = model.dots(image_embeds, text_embeds)
    dropped = bernoulli(config.text_dropout, len(codes), generator, codes.device)
    condition = model.condition(tokens, text_embeds.float(), dots, dropped)
    logits: Tensor = model(codes[:, :-1], condition)  # (B, K, buckets)
    return F.cross_entropy(rearrange(logits.float(), "b k c -> (b k) c"), codes.flatten())


def decoder_loss(model: Decoder, batch: Batch, generator: torch.Generator) -> Tensor:
    """Denoising error, with the embedding and the caption dropped independently."""
    config = model.config
    tokens = take(batch, "tokens")[0]
    image_embeds = expect(batch, "image_embeds", (config.embed_dim,))
    pixels = expect(batch, "pixels", (3, config.image_size, config.image_size))
    condition = model.condition(
        image_embeds.float(),
        tokens,
        drop_image=bernoulli(config.image_dropout, len(pixels), generator, pixels.device),
        drop_text=bernoulli(config.text_dropout, len(pixels), generator, pixels.device),
    )
    with dropout_from(generator, rate=config.unet.dropout, device=pixels.device):
        return _denoising_loss(
            model,
            pixels.float(),
            (condition,),
            learned_variance=config.learned_variance,
            generator=generator,
        )


def upsampler_loss(model: Upsampler, batch: Batch, generator: torch.Generator) -> Tensor:
    """Denoising error on crops, given their corrupted low-resolution version."""
    config = model.config
    pixels = expect(batch, "pixels", (3, config.image_size, config.image_size))
    pixels = _random_crops(pixels, config.crop_size, multiple=config.scale, generator=generator)
    low_res = F.interpolate(pixels, scale_factor=1 / config.scale, mode="area")
    low_res = degrade(
        low_res,
        config.degradation,
        probability=config.degradation_probability,
        generator=generator,
    )
    low_res, noise_std = _add_noise(low_res, config.low_res_noise, generator)
    enlarged = model.condition(low_res)
    x_start = model.to_diffused(pixels.float(), enlarged)
    with dropout_from(generator, rate=config.unet.dropout, device=pixels.device):
        return _denoising_loss(
            model, x_start, (enlarged, noise_std), learned_variance=False, generator=generator
        )


def _denoising_loss(
    model: Decoder | Upsampler,
    x_start: Tensor,
    condition: tuple[Any, ...],
    *,
    learned_variance: bool,
    generator: torch.Generator,
) -> Tensor:
    """At uniform timesteps, weighted as the model's config says."""
    config, device = model.config, x_start.device
    return denoising_loss(
        lambda x, timesteps: model(x, timesteps, *condition),
        x_start,
        draw_timesteps(len(x_start), config.train_timesteps, generator, device),
        schedule=make_schedule(
            config.schedule, train_timesteps=config.train_timesteps, device=device
        ),
        prediction=config.prediction,
        learned_variance=learned_variance,
        min_snr_gamma=config.min_snr_gamma,
        generator=generator,
    )


def _add_noise(
    low_res: Tensor, largest: float | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Noise of a uniform standard deviation on each image, and that deviation (B,)."""
    if largest is None:
        return low_res, None
    std = torch.rand(len(low_res), generator=generator, device=generator.device) * largest
    std = std.to(low_res.device)
    noise = randn(tuple(low_res.shape), generator=generator, device=low_res.device)
    return low_res + std[:, None, None, None] * noise, std


def _random_crops(
    pixels: Tensor, size: int, *, multiple: int, generator: torch.Generator
) -> Tensor:
    """A square of each image (B, C, S, S) -> (B, C, size, size), at multiples of `multiple`.

    So the pixels of the low-resolution crop lie where those of the whole image do.
    """
    choices = (pixels.shape[-1] - size) // multiple + 1
    if choices == 1:
        return pixels[..., :size, :size]
    corners = torch.randint(choices, (len(pixels), 2), generator=generator, device=generator.device)
    return torch.stack(
        [
            image[:, top : top + size, left : left + size]
            for image, (top, left) in zip(pixels, (corners * multiple).tolist(), strict=True)
        ]
    )
