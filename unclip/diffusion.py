"""The algebra of Gaussian diffusion: x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε, and its views.

A network may predict ε, x_0 or v = sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) x_0 (Salimans and Ho 2022); with
x_t at hand each follows from the others. `target` and `to_x_start` dispatch on the name.
"""

# B batch; x, noise and predictions share the shape (B, ...); timesteps (B,) int64

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.config import ConfigError
from unclip.schedules import Schedule


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
    """The ε that leads from x_0 to x_t."""
    signal, sigma = signal_and_noise_rates(x, timesteps, schedule)
    return (x - signal * x_start) / sigma


def x_start_from_noise(
    noise: Tensor, x: Tensor, timesteps: Tensor, *, schedule: Schedule
) -> Tensor:
    """The x_0 that ε leads to x_t from; loses precision where hardly any signal is left."""
    signal, sigma = signal_and_noise_rates(x, timesteps, schedule)
    return (x - sigma * noise) / signal


def velocity(x_start: Tensor, noise: Tensor, timesteps: Tensor, *, schedule: Schedule) -> Tensor:
    """The v that goes with x_0 and ε: sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) x_0."""
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
    """Raise `ConfigError` for a prediction type that is not known."""
    if prediction not in TO_X_START:
        known = ", ".join(TO_X_START)
        raise ConfigError(f"prediction={prediction!r} is not known; choose one of {known}")


def to_x_start(
    prediction: str, output: Tensor, x: Tensor, timesteps: Tensor, *, schedule: Schedule
) -> Tensor:
    """The x_0 that a network's output stands for, given the x_t it saw."""
    return TO_X_START[prediction](output, x, timesteps, schedule=schedule)


def target(
    prediction: str, x_start: Tensor, noise: Tensor, timesteps: Tensor, *, schedule: Schedule
) -> Tensor:
    """What a network of this prediction type should output."""
    if prediction == "v":
        return velocity(x_start, noise, timesteps, schedule=schedule)
    return noise if prediction == "epsilon" else x_start


def min_snr_weights(
    prediction: str, timesteps: Tensor, *, gamma: float, schedule: Schedule
) -> Tensor:
    """Loss weights that cap the signal-to-noise ratio at gamma (Hang et al. 2023); (B,) float32.

    An error in x_0 weighs min(SNR, gamma) whatever the network predicts.
    """
    snr = signal_to_noise(timesteps, schedule)
    in_x_start = {"epsilon": snr, "v": snr + 1, "x_0": torch.ones_like(snr)}[prediction]
    return (snr.clamp(max=gamma) / in_x_start).float()
