"""Noise schedules: the signal left at each timestep, and the timesteps that samplers visit."""

# T train timesteps, N inference steps

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from unclip.config import ConfigError


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule in float64, because a float32 cumulative product drifts over 1000 steps.

    betas, alphas_cumprod: (T,), on the same device; alphas_cumprod falls from almost 1 to almost 0.
    """

    betas: Tensor
    alphas_cumprod: Tensor

    @property
    def train_timesteps(self) -> int:
        """Number of timesteps T."""
        return len(self.betas)


def cosine_betas(train_timesteps: int) -> Tensor:
    """Squared-cosine schedule (Nichol and Dhariwal 2021, eq. 17), betas capped at 0.999; (T,)."""
    steps = torch.arange(train_timesteps + 1, dtype=torch.float64) / train_timesteps
    signal = torch.cos((steps + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)


def linear_betas(train_timesteps: int) -> Tensor:
    """Linear schedule (Ho et al. 2020, section 4), rescaled from 1000 steps to any number; (T,)."""
    scale = 1000 / train_timesteps
    betas = torch.linspace(1e-4 * scale, 0.02 * scale, train_timesteps, dtype=torch.float64)
    return betas.clamp(max=0.999)


SCHEDULES: dict[str, Callable[[int], Tensor]] = {"cosine": cosine_betas, "linear": linear_betas}


def check_schedule(name: str, train_timesteps: int) -> None:
    """Raise `ConfigError` for a schedule that `make_schedule` does not know."""
    if name not in SCHEDULES:
        raise ConfigError(f"schedule={name!r} is not known; choose one of {', '.join(SCHEDULES)}")
    if train_timesteps < 1:
        raise ConfigError(f"train_timesteps={train_timesteps} must be at least 1; 1000 is usual")


@lru_cache(maxsize=32)
def make_schedule(
    name: str, *, train_timesteps: int, device: torch.device | str = "cpu"
) -> Schedule:
    """The named schedule on the device; cached, so that a step does not copy it to the device."""
    check_schedule(name, train_timesteps)
    betas = SCHEDULES[name](train_timesteps)
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    return Schedule(betas=betas.to(device), alphas_cumprod=alphas_cumprod.to(device))


def schedule_of(config: Any, device: torch.device) -> Schedule:
    """The schedule of a model; config: has `schedule` and `train_timesteps`."""
    return make_schedule(config.schedule, train_timesteps=config.train_timesteps, device=device)


def respaced_timesteps(train_timesteps: int, num_inference_steps: int) -> list[int]:
    """The N timesteps that a sampler visits: from T - 1 down to 0, evenly spaced, no repeats."""
    if not 1 <= num_inference_steps <= train_timesteps:
        raise ConfigError(
            f"num_inference_steps={num_inference_steps} must lie between 1 and the "
            f"train_timesteps={train_timesteps} of the model"
        )
    if num_inference_steps == 1:
        return [train_timesteps - 1]
    stride = (train_timesteps - 1) / (num_inference_steps - 1)
    return [round(i * stride) for i in reversed(range(num_inference_steps))]
