"""Tried for the recipe, and not settings of the pipeline.

In training: Muon, whitened and noised embeddings, timesteps as in flow matching. In sampling:
guidance in an interval, and by a less trained decoder.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.denoising.guidance import clamp_static, classifier_free
from unclip.generation import Cascade
from unclip.samplers import Denoise

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is orthogonalised (Jordan et al. 2024); kernels enter as matrices."""

    def __init__(self, parameters: Iterable[Tensor], *, lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, _closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                average = state.setdefault("average", torch.zeros_like(parameter))
                average.mul_(group["momentum"]).add_(parameter.grad)
                nesterov = parameter.grad + group["momentum"] * average
                update = orthogonalised(nesterov.flatten(1))
                widening = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.sub_(update.view_as(parameter), alpha=group["lr"] * widening)


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, roughly, by Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    x = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    is_tall = len(x) > x.shape[1]
    x = x.T if is_tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.T if is_tall else x
    return orthogonal.float()


def with_muon(
    model: nn.Module, adamw: torch.optim.AdamW, *, lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and kernels inside the network; `adamw` keeps what remains."""
    outside = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    outside += [m for n, m in model.named_modules() if n in ("unet.stem", "unet.out")]
    kept = {id(p) for module in outside for p in module.parameters()}
    inner = [
        m.weight
        for m in model.modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and id(m.weight) not in kept
    ]
    moved = {id(p) for p in inner}
    for group in adamw.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in moved]
    return [adamw, Muon(inner, lr=lr)]


def whitened(training: Tensor, ridge: float) -> Callable[[Tensor], Tensor]:
    """Map embeddings (N, E) to unit-norm ones whose components vary alike over `training`.

    ridge: added to each standard deviation, relative to the largest.
    """
    mean = training.mean(0)
    _, singular, directions = torch.linalg.svd(training - mean, full_matrices=False)
    deviations = singular / len(training) ** 0.5
    whiten = directions.T / (deviations + ridge * deviations[0])
    return lambda embeds: F.normalize((embeds - mean) @ whiten, dim=-1)


def noised(embeds: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Embeddings (B, E) with Gaussian noise; a component of a unit-norm one is about E^-1/2."""
    return embeds + deviation * torch.randn(embeds.shape, generator=generator)


def logit_normal_timesteps(
    count: int, train_timesteps: int, mean: float, generator: torch.Generator
) -> Tensor:
    """Timesteps of the cosine schedule, distributed as in flow matching (Esser et al. 2024); (B,).

    At the time s of a straight path, noise and data have the ratio s / (1 - s), whose logarithm is
    drawn from a normal distribution with this mean and deviation 1. The cosine schedule has the
    ratio tan(π t / 2).
    """
    log_ratio = mean + torch.randn(count, generator=generator)
    return (train_timesteps * 2 / math.pi * torch.atan(log_ratio.exp())).long()


@dataclass(frozen=True)
class IntervalGuidance(Cascade):
    """Guides the decoder only between two times in [0, 1] (Kynkäänniemi et al. 2024)."""

    interval: tuple[float, float] = (0.0, 1.0)

    def decoder_denoiser(self, image_embeds: Tensor | None, tokens: Tensor | None) -> Denoise:
        """Guided inside the interval, and conditional outside."""
        guided = super().decoder_denoiser(image_embeds, tokens)
        plain = unguided(self).decoder_denoiser(image_embeds, tokens)
        low, high = (time * self.decoder.config.train_timesteps for time in self.interval)
        return lambda x, t: guided(x, t) if low <= float(t[0]) <= high else plain(x, t)


@dataclass(frozen=True)
class Autoguidance(Cascade):
    """Guides the decoder by a less trained one (Karras et al. 2024), not by dropped conditions."""

    lesser: nn.Module | None = None
    scale: float = 2.0

    def decoder_denoiser(self, image_embeds: Tensor | None, tokens: Tensor | None) -> Denoise:
        """Away from the prediction of the less trained decoder."""
        plain = unguided(self)
        good = plain.decoder_denoiser(image_embeds, tokens)
        lesser = replace(plain, decoder=self.lesser).decoder_denoiser(image_embeds, tokens)

        def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
            worse = lesser(x, timesteps)
            better = good(x, timesteps)
            return clamp_static(classifier_free(better, worse, guidance_scale=self.scale))

        return denoise


def unguided(cascade: Cascade) -> Cascade:
    """A plain cascade of the same models, with guidance scale 1 in the decoder."""
    sampling = cascade.sampling
    decoder = replace(sampling.decoder, guidance_scale=1.0)
    return Cascade(None, cascade.decoder, cascade.upsamplers, replace(sampling, decoder=decoder))
