"""Degradations by the names that configs use."""

# B batch, C channels, H height, W width

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.config import ConfigError
from unclip.degradations.blur import gaussian_blur
from unclip.degradations.bsr import bsr


def _gaussian_blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    del generator
    return gaussian_blur(pixels)


# (B, C, H, W) in [-1, 1] -> the same shape; all random draws come from the generator.
DEGRADATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "gaussian_blur": _gaussian_blur,
    "bsr": bsr,
}


def check_degradation(name: str) -> None:
    """Raise `ConfigError` for an unknown degradation."""
    if name not in DEGRADATIONS:
        known = ", ".join(DEGRADATIONS)
        raise ConfigError(f"degradation={name!r} is unknown; choose one of {known}")


def degrade(pixels: Tensor, name: str, *, probability: float, generator: torch.Generator) -> Tensor:
    """Degrade each image of (B, C, H, W) in [-1, 1] independently, with the given probability."""
    draws = torch.rand(len(pixels), generator=generator, device=generator.device)
    chosen = (draws < probability).to(pixels.device)[:, None, None, None]
    return torch.where(chosen, DEGRADATIONS[name](pixels, generator), pixels)
