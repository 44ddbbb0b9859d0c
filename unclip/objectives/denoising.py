"""The denoising loss: squared error, plus the variational bound for a learned variance."""

# B batch, C channels, S image size

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.diffusion import (
    Schedule,
    interpolated_log_variance,
    min_snr_weights,
    q_sample,
    target,
    to_x_start,
    vlb_terms,
)
from unclip.objectives.row_losses import report_rows
from unclip.samplers import randn

VLB_WEIGHT = 0.001  # λ of L_hybrid, the weight of the bound, which sums over all timesteps


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
    """Noise x_0 and return the mean squared error of the network's prediction; a scalar.

    x_start: (B, C, S, S); timesteps: (B,) int64; network: maps x_t and timesteps to the prediction
    (B, C, S, S), or with a learned variance to (B, 2C, S, S), the variance output last. A learned
    variance adds the variational bound (`_variance_losses`). min_snr_gamma: see `min_snr_weights`.
    """
    noise = randn(tuple(x_start.shape), generator=generator, device=x_start.device)
    x = q_sample(x_start, timesteps, noise=noise, schedule=schedule)
    output, channels = network(x, timesteps).float(), x_start.shape[1]
    predicted = output[:, :channels]
    variance = output[:, channels:]  # (B, 0, S, S) unless learned
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
    report_rows(timesteps, losses)
    return losses.mean()


def _variance_losses(
    x_start: Tensor,
    x: Tensor,
    timesteps: Tensor,
    predicted_x_start: Tensor,
    output: Tensor,
    schedule: Schedule,
) -> Tensor:
    """The term that L_hybrid adds to L_simple (Nichol and Dhariwal 2021, eq. 16); (B,).

    The bound is a sum over all T timesteps. One was drawn, so its term is multiplied by T.
    predicted_x_start carries no gradient, so the bound trains the variance but not the mean.
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
