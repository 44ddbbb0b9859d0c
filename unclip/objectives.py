"""Training objectives: from a model and a batch to a scalar loss, with all chance in a generator.

A batch maps names to tensors: "pixels" (B, 3, S, S) in [-1, 1] at the model's image_size,
"image_embeds" and "text_embeds" (B, E) unit-norm, "tokens" (B, L) int64 padded with 0.
"""

# B batch, C channels, S image size, s low-resolution size, L context length, E embedding width

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.degradations import degrade
from unclip.diffusion import (
    interpolated_log_variance,
    min_snr_weights,
    q_sample,
    target,
    to_x_start,
    vlb_terms,
)
from unclip.models import (
    ARPrior,
    ARPriorConfig,
    Decoder,
    DecoderConfig,
    DiffusionPrior,
    DiffusionPriorConfig,
    Upsampler,
    UpsamplerConfig,
)
from unclip.samplers import randn
from unclip.schedules import Schedule, make_schedule

Batch = Mapping[str, Tensor]

VLB_WEIGHT = 0.001  # λ of L_hybrid, on the sum of the bound's terms over all timesteps


def prior_loss(model: DiffusionPrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted image embedding (section 2.2 of the paper)."""
    config = model.config
    text_embeds, tokens = _take(batch, "text_embeds", "tokens")
    image_embeds = _expect(batch, "image_embeds", (config.embed_width,))
    schedule = make_schedule(
        config.schedule, train_timesteps=config.train_timesteps, device=image_embeds.device
    )
    x_start = image_embeds.float() * config.embedding_scale  # (B, E)
    timesteps = _timesteps(len(x_start), config.train_timesteps, generator, x_start.device)
    noise = randn(tuple(x_start.shape), generator=generator, device=x_start.device)
    dropped = _bernoulli(config.text_dropout, len(x_start), generator, x_start.device)
    condition = model.condition(tokens, text_embeds.float(), dropped)
    x = q_sample(x_start, timesteps, noise=noise, schedule=schedule)
    predicted: Tensor = model(x, timesteps, condition)
    # Over the square of the scale, so that losses of different scales compare.
    return F.mse_loss(predicted.float(), x_start) / config.embedding_scale**2 * config.embed_width


def ar_prior_loss(model: ARPrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean cross entropy of the codes, in nats a code (section 2.2 of the paper)."""
    config = model.config
    text_embeds, tokens = _take(batch, "text_embeds", "tokens")
    image_embeds = _expect(batch, "image_embeds", (config.embed_width,))
    codes = model.encode(image_embeds)  # (B, K)
    dots = model.dots(image_embeds, text_embeds)
    dropped = _bernoulli(config.text_dropout, len(codes), generator, codes.device)
    condition = model.condition(tokens, text_embeds.float(), dots, dropped)
    logits: Tensor = model(codes[:, :-1], condition)  # (B, K, buckets)
    return F.cross_entropy(rearrange(logits.float(), "b k c -> (b k) c"), codes.flatten())


def decoder_loss(model: Decoder, batch: Batch, generator: torch.Generator) -> Tensor:
    """Denoising error, with the embedding and the caption dropped independently."""
    config = model.config
    tokens = _take(batch, "tokens")[0]
    image_embeds = _expect(batch, "image_embeds", (config.embed_width,))
    pixels = _expect(batch, "pixels", (3, config.image_size, config.image_size))
    condition = model.condition(
        image_embeds.float(),
        tokens,
        drop_image=_bernoulli(config.image_dropout, len(pixels), generator, pixels.device),
        drop_text=_bernoulli(config.text_dropout, len(pixels), generator, pixels.device),
    )
    with _dropout_from(generator, rate=config.unet.dropout, device=pixels.device):
        return _denoising_loss(model, pixels.float(), (condition,), generator)


def upsampler_loss(model: Upsampler, batch: Batch, generator: torch.Generator) -> Tensor:
    """Denoising error on crops, given their corrupted low-resolution version."""
    config = model.config
    pixels = _expect(batch, "pixels", (3, config.image_size, config.image_size))
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
    with _dropout_from(generator, rate=config.unet.dropout, device=pixels.device):
        return _denoising_loss(model, x_start, (enlarged, noise_std), generator)


OBJECTIVES: dict[type[Config], Callable[[Any, Batch, torch.Generator], Tensor]] = {
    DiffusionPriorConfig: prior_loss,
    ARPriorConfig: ar_prior_loss,
    DecoderConfig: decoder_loss,
    UpsamplerConfig: upsampler_loss,
}


def training_loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """The loss of any model that `build` makes."""
    objective = OBJECTIVES.get(type(getattr(model, "config", None)))  # type: ignore[arg-type]
    if objective is None:
        raise ConfigError(f"{type(model).__name__} has no objective; give a model made by `build`")
    return objective(model, batch, generator)


def _denoising_loss(
    model: Decoder | Upsampler,
    x_start: Tensor,
    condition: tuple[Any, ...],
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error in the space that the model predicts, weighted as its config says."""
    config = model.config
    schedule = make_schedule(
        config.schedule, train_timesteps=config.train_timesteps, device=x_start.device
    )
    timesteps = _timesteps(len(x_start), config.train_timesteps, generator, x_start.device)
    noise = randn(tuple(x_start.shape), generator=generator, device=x_start.device)
    x = q_sample(x_start, timesteps, noise=noise, schedule=schedule)
    output: Tensor = model(x, timesteps, *condition)
    predicted, variance = output.float()[:, :3], output.float()[:, 3:]  # the second may be empty
    wanted = target(config.prediction, x_start, noise, timesteps, schedule=schedule)
    losses = (predicted - wanted).square().flatten(1).mean(1)  # (B,)
    if config.min_snr_gamma is not None:
        losses = losses * min_snr_weights(
            config.prediction, timesteps, gamma=config.min_snr_gamma, schedule=schedule
        )
    if isinstance(config, DecoderConfig) and config.learned_variance:
        predicted_x_start = to_x_start(
            config.prediction, predicted.detach(), x, timesteps, schedule=schedule
        )
        losses = losses + _variance_losses(
            x_start, x, timesteps, predicted_x_start, variance, schedule
        )
    return losses.mean()


def _variance_losses(
    x_start: Tensor,
    x: Tensor,
    timesteps: Tensor,
    predicted_x_start: Tensor,
    output: Tensor,
    schedule: Schedule,
) -> Tensor:
    """What L_hybrid adds to L_simple (Nichol and Dhariwal 2021, eq. 16); (B,).

    The bound is the sum over all T timesteps, of which one was drawn: T times its term. The mean
    is not to learn from it, so predicted_x_start comes without gradient.
    """
    log_variance = interpolated_log_variance(output, timesteps, schedule=schedule)
    terms = vlb_terms(
        x_start,
        x,
        timesteps,
        predicted_x_start=predicted_x_start,
        predicted_log_variance=log_variance,
        schedule=schedule,
    )
    return VLB_WEIGHT * schedule.train_timesteps * terms


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


def _timesteps(
    count: int, train_timesteps: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Uniform timesteps; (B,) int64."""
    drawn = torch.randint(train_timesteps, (count,), generator=generator, device=generator.device)
    return drawn.to(device)


def _bernoulli(rate: float, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """True at the rate; (B,) bool."""
    return (torch.rand(count, generator=generator, device=generator.device) < rate).to(device)


@contextmanager
def _dropout_from(
    generator: torch.Generator, *, rate: float, device: torch.device
) -> Iterator[None]:
    """Let dropout, which takes no generator, follow from ours; the global state is put back."""
    if rate == 0:
        yield
        return
    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed))
        yield


def _take(batch: Batch, *names: str) -> list[Tensor]:
    missing = [name for name in names if name not in batch]
    if missing:
        raise ConfigError(
            f"the batch has {', '.join(sorted(batch)) or 'nothing'}, but the objective also needs "
            f"{', '.join(missing)}; let the loader read them"
        )
    return [batch[name] for name in names]


def _expect(batch: Batch, name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of that name, whose rows must have the shape that the model's config says."""
    tensor = _take(batch, name)[0]
    if tuple(tensor.shape[1:]) != shape:
        raise ConfigError(
            f"batch[{name!r}] has shape {tuple(tensor.shape)}, but the model's config asks for "
            f"(B, {', '.join(map(str, shape))}); change the loader or the config"
        )
    return tensor
