"""The algebra of Gaussian diffusion: x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε.

A network may predict ε, x_0 or v = sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) x_0 (Salimans and Ho 2022). Given
x_t, each of them determines the others. `target` and `to_x_start` dispatch on the name.
"""

# B batch; x, noise and predictions share the shape (B, ...); timesteps (B,) int64

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from unclip.config import ConfigError
from unclip.diffusion.schedules import Schedule

# A single ᾱ, or a tensor with one for each row.
AlphaBar = TypeVar("AlphaBar", float, Tensor)


def signal_and_noise_rates(
    like: Tensor, timesteps: Tensor, schedule: Schedule
) -> tuple[Tensor, Tensor]:
    """sqrt(ᾱ_t) and sqrt(1 - ᾱ_t), in the dtype of `like` and broadcastable to it: (B, 1, ...)."""
    alphas_cumprod = schedule.alphas_cumprod[timesteps].view(-1, *[1] * (like.ndim - 1))
    return alphas_cumprod.sqrt().to(like.dtype), (1 - alphas_cumprod).sqrt().to(like.dtype)


def signal_to_noise(timesteps: Tensor, schedule: Schedule) -> Tensor:
    """ᾱ_t / (1 - ᾱ_t), float64; (B,)."""
    alphas_cumprod = schedule.alphas_cumprod[timesteps]
    return alphas_cumprod / (1 - alphas_cumprod)


def q_sample(x_start: Tensor, timesteps: Tensor, *, noise: Tensor, schedule: Schedule) -> Tensor:
    """Noise x_0 to timestep t (DDPM eq. 4)."""
    signal, sigma = signal_and_noise_rates(x_start, timesteps, schedule)
    return signal * x_start + sigma * noise


def noise_from_x_start(
    x_start: Tensor, x: Tensor, timesteps: Tensor, *, schedule: Schedule
) -> Tensor:
    """ε = (x_t - sqrt(ᾱ_t) x_0) / sqrt(1 - ᾱ_t)."""
    signal, sigma = signal_and_noise_rates(x, timesteps, schedule)
    return (x - signal * x_start) / sigma


def x_start_from_noise(
    noise: Tensor, x: Tensor, timesteps: Tensor, *, schedule: Schedule
) -> Tensor:
    """x_0 = (x_t - sqrt(1 - ᾱ_t) ε) / sqrt(ᾱ_t); imprecise at timesteps with little signal."""
    signal, sigma = signal_and_noise_rates(x, timesteps, schedule)
    return (x - sigma * noise) / signal


def velocity(x_start: Tensor, noise: Tensor, timesteps: Tensor, *, schedule: Schedule) -> Tensor:
    """Velocity v = sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) x_0 (Salimans and Ho 2022)."""
    signal, sigma = signal_and_noise_rates(x_start, timesteps, schedule)
    return signal * noise - sigma * x_start


def x_start_from_velocity(v: Tensor, x: Tensor, timesteps: Tensor, *, schedule: Schedule) -> Tensor:
    """x_0 = sqrt(ᾱ_t) x_t - sqrt(1 - ᾱ_t) v."""
    signal, sigma = signal_and_noise_rates(x, timesteps, schedule)
    return signal * x - sigma * v


def noise_from_velocity(v: Tensor, x: Tensor, timesteps: Tensor, *, schedule: Schedule) -> Tensor:
    """ε = sqrt(1 - ᾱ_t) x_t + sqrt(ᾱ_t) v."""
    signal, sigma = signal_and_noise_rates(x, timesteps, schedule)
    return sigma * x + signal * v


def _identity(x_start: Tensor, x: Tensor, timesteps: Tensor, *, schedule: Schedule) -> Tensor:
    del x, timesteps, schedule
    return x_start


TO_X_START: dict[str, Callable[..., Tensor]] = {
    "epsilon": x_start_from_noise,
    "v": x_start_from_velocity,
    "x_0": _identity,
}


def check_prediction(prediction: str) -> None:
    """Raise `ConfigError` for an unknown prediction type."""
    if prediction not in TO_X_START:
        known = ", ".join(TO_X_START)
        raise ConfigError(f"prediction={prediction!r} is not known; choose one of {known}")


def to_x_start(
    prediction: str, output: Tensor, x: Tensor, timesteps: Tensor, *, schedule: Schedule
) -> Tensor:
    """Convert a network's output to x_0; x is the x_t that the network was given."""
    return TO_X_START[prediction](output, x, timesteps, schedule=schedule)


def target(
    prediction: str, x_start: Tensor, noise: Tensor, timesteps: Tensor, *, schedule: Schedule
) -> Tensor:
    """The regression target of a network with this prediction type."""
    if prediction == "v":
        return velocity(x_start, noise, timesteps, schedule=schedule)
    return noise if prediction == "epsilon" else x_start


def min_snr_weights(
    prediction: str, timesteps: Tensor, *, gamma: float, schedule: Schedule
) -> Tensor:
    """Loss weights that cap the signal-to-noise ratio at gamma (Hang et al. 2023); (B,) float32.

    The weight of a squared error in x_0 is min(SNR, gamma), whatever the network predicts.
    """
    snr = signal_to_noise(timesteps, schedule)
    # The squared error of each prediction type is this multiple of the squared error in x_0.
    multiple = {"epsilon": snr, "v": snr + 1, "x_0": torch.ones_like(snr)}[prediction]
    return (snr.clamp(max=gamma) / multiple).float()


def posterior_coefficients(
    alpha_bar: AlphaBar, alpha_bar_prev: AlphaBar
) -> tuple[AlphaBar, AlphaBar, AlphaBar]:
    """Coefficients of q(x_s | x_t, x_0) for any s < t (DDPM eq. 7), from ᾱ_t and ᾱ_s.

    Returns a, b and β̃: the mean is a x_0 + b x_t, and the variance is β̃.
    """
    alpha = alpha_bar / alpha_bar_prev
    of_x_start = alpha_bar_prev**0.5 * (1 - alpha) / (1 - alpha_bar)
    of_x = alpha**0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar)
    return of_x_start, of_x, (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha)


def posterior_mean(x_start: Tensor, x: Tensor, timesteps: Tensor, *, schedule: Schedule) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x_0); at the first timestep it is x_0."""
    of_x_start, of_x, _ = posterior_coefficients(*_alpha_bars(x, timesteps, schedule))
    return of_x_start.to(x.dtype) * x_start + of_x.to(x.dtype) * x


def posterior_log_variance(like: Tensor, timesteps: Tensor, *, schedule: Schedule) -> Tensor:
    """The log of β̃_t, float64; (B, 1, ...). β̃_0 is 0, so timestep 0 uses β̃ of timestep 1."""
    second = min(1, schedule.train_timesteps - 1)
    variance = posterior_coefficients(*_alpha_bars(like, timesteps.clamp(min=second), schedule))[2]
    return variance.clamp(min=1e-20).log()


def interpolated_log_variance(output: Tensor, timesteps: Tensor, *, schedule: Schedule) -> Tensor:
    """Learned log variance (Nichol and Dhariwal 2021, eq. 15); (B, ...).

    output: (B, ...), the network's variance output. It interpolates from log β̃_t at -1 to log β_t
    at 1.
    """
    alpha_bar, alpha_bar_prev = _alpha_bars(output, timesteps, schedule)
    low = posterior_log_variance(output, timesteps, schedule=schedule).to(output.dtype)
    high = (1 - alpha_bar / alpha_bar_prev).log().to(output.dtype)
    return low + (output + 1) / 2 * (high - low)


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor
) -> Tensor:
    """KL(N(mean, variance) ‖ N(other_mean, other_variance)) in each dimension, in nats."""
    difference = log_variance - other_log_variance
    apart = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return (difference.exp() - difference - 1 + apart) / 2


def discretised_gaussian_nll(x_start: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log of the Gaussian's probability of x_0's bin (DDPM eq. 13), in nats.

    The bins are those of 8-bit pixels: 256 in [-1, 1]. The outermost bins extend to infinity, so
    the probabilities sum to 1.
    """
    precision = torch.exp(-0.5 * log_variance)
    above, below = ((x_start - mean + half) * precision for half in (1 / 255, -1 / 255))
    # Finite limits, because gradients at infinity are NaN.
    above = torch.where(x_start > 0.999, 1e4, above.clamp(-1e4, 1e4))
    below = torch.where(x_start < -0.999, -1e4, below.clamp(-1e4, 1e4))
    # Far into the positive tail both CDFs round to 1. Mirrored, they keep their precision.
    flip = above + below > 0
    low, high = torch.where(flip, -above, below), torch.where(flip, -below, above)
    log_high: Tensor = torch.special.log_ndtr(high)
    outside = torch.exp(torch.special.log_ndtr(low) - log_high)
    return -log_high - torch.log1p(-outside.clamp(max=1 - 1e-7))


def vlb_terms(
    x_start: Tensor,
    x: Tensor,
    timesteps: Tensor,
    *,
    predicted_x_start: Tensor,
    predicted_log_variance: Tensor,
    schedule: Schedule,
) -> Tensor:
    """L_t of the variational bound (DDPM eq. 5), in bits per dimension; (B,).

    x_start holds 8-bit pixels scaled to [-1, 1]. At timestep 0 the term is their negative
    log-likelihood; at all others it is KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t)).
    """
    wanted = posterior_mean(x_start, x, timesteps, schedule=schedule)
    predicted = posterior_mean(predicted_x_start, x, timesteps, schedule=schedule)
    log_variance = posterior_log_variance(x, timesteps, schedule=schedule).to(x.dtype)
    kl = gaussian_kl(wanted, log_variance, predicted, predicted_log_variance)
    nll = discretised_gaussian_nll(x_start, predicted, predicted_log_variance)
    first = (timesteps == 0).view(-1, *[1] * (x.ndim - 1))
    return torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)


def _alpha_bars(like: Tensor, timesteps: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """ᾱ_t and ᾱ_{t-1} in float64, broadcastable to `like`: (B, 1, ...)."""
    alpha_bar_prev = torch.cat([schedule.alphas_cumprod.new_ones(1), schedule.alphas_cumprod[:-1]])
    shape = (-1, *[1] * (like.ndim - 1))
    return schedule.alphas_cumprod[timesteps].view(shape), alpha_bar_prev[timesteps].view(shape)
