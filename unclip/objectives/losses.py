"""What training objectives are made of: what is drawn by chance, and the error of a denoiser."""

# B batch, C channels, S image size

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from unclip.config import ConfigError
from unclip.diffusion import (
    Schedule,
    interpolated_log_variance,
    min_snr_weights,
    q_sample,
    target,
    to_x_start,
    vlb_terms,
)
from unclip.samplers import randn

Batch = Mapping[str, Tensor]

VLB_WEIGHT = 0.001  # λ of L_hybrid, on the sum of the bound's terms over all timesteps


def denoising_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    x_start: Tensor,
    timesteps: Tensor,
    *,
    schedule: Schedule,
    prediction: str,
    learned_variance: bool = False,
    min_snr_gamma: float | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error in the space that the network predicts, of x_0 noised to its timesteps.

    x_start: (B, C, S, S); timesteps: (B,) int64. network: from x_t and timesteps to what is
    predicted, (B, C, S, S), with as many channels for the variance behind it where that is learned.
    """
    noise = randn(tuple(x_start.shape), generator=generator, device=x_start.device)
    x = q_sample(x_start, timesteps, noise=noise, schedule=schedule)
    output, channels = network(x, timesteps).float(), x_start.shape[1]
    predicted, variance = output[:, :channels], output[:, channels:]  # the second may be empty
    wanted = target(prediction, x_start, noise, timesteps, schedule=schedule)
    losses = (predicted - wanted).square().flatten(1).mean(1)  # (B,)
    if min_snr_gamma is not None:
        losses = losses * min_snr_weights(
            prediction, timesteps, gamma=min_snr_gamma, schedule=schedule
        )
    if learned_variance:
        known = predicted.detach()
        predicted_x_start = to_x_start(prediction, known, x, timesteps, schedule=schedule)
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


def draw_timesteps(
    count: int, train_timesteps: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Uniform timesteps; (B,) int64."""
    drawn = torch.randint(train_timesteps, (count,), generator=generator, device=generator.device)
    return drawn.to(device)


def bernoulli(rate: float, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """True at the rate; (B,) bool."""
    return (torch.rand(count, generator=generator, device=generator.device) < rate).to(device)


@contextmanager
def dropout_from(
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


def take(batch: Batch, *names: str) -> list[Tensor]:
    """The tensors of these names; raises `ConfigError` where one is missing."""
    missing = [name for name in names if name not in batch]
    if missing:
        raise ConfigError(
            f"the batch has {', '.join(sorted(batch)) or 'nothing'}, but the objective also needs "
            f"{', '.join(missing)}; let the loader read them"
        )
    return [batch[name] for name in names]


def expect(batch: Batch, name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of that name, whose rows must have the shape that the model's config says."""
    tensor = take(batch, name)[0]
    if tuple(tensor.shape[1:]) != shape:
        raise ConfigError(
            f"batch[{name!r}] has shape {tuple(tensor.shape)}, but the model's config asks for "
            f"({', '.join(['B', *map(str, shape)])}); change the loader or the config"
        )
    return tensor
