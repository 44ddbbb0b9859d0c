"""Noise norms of a cascade's prior, for the sampler analytic_dpm."""

# B batch, L context length, E width of the CLIP embeddings

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from unclip.config import ConfigError
from unclip.diffusion import schedule_of
from unclip.generation.cascade import Cascade
from unclip.kinds import spec_of
from unclip.samplers import Generators, estimate_noise_norms

log = logging.getLogger(__name__)


def with_prior_noise_norms(
    cascade: Cascade, batch: Mapping[str, Tensor], *, generator: Generators
) -> Cascade:
    """The cascade with estimated noise norms, which analytic_dpm needs.

    batch: "tokens" (B, L), "text_embeds" and "image_embeds" (B, E), of real pairs. A few dozen rows
    are enough, because each step needs only one number. The norms are estimated without guidance,
    whatever the cascade's guidance_scale, because a guided x_0 is a worse prediction of the true
    one. Raises `ConfigError` if the cascade has no diffusion prior.
    """
    prior, sampling = cascade.prior, cascade.sampling
    denoiser = None if prior is None else spec_of(prior).denoiser
    if prior is None or denoiser is None:
        raise ConfigError(
            "only a diffusion prior has noise norms; sample from this cascade as it is"
        )
    image_embeds = prior.standardise(batch["image_embeds"].to(cascade.device))
    with (
        torch.no_grad(),
        torch.autocast(cascade.device.type, torch.bfloat16, enabled=sampling.bf16),
    ):
        denoise = denoiser(
            prior,
            batch["tokens"].to(cascade.device),
            batch["text_embeds"].to(cascade.device),
            guidance_scale=1.0,
        )
        noise_norms = estimate_noise_norms(
            [(denoise, image_embeds)],
            schedule=schedule_of(prior.config, cascade.device),
            num_inference_steps=sampling.prior.num_inference_steps,
            generator=generator,
        )
    log.info("estimated the prior's noise norms from %d rows", len(image_embeds))
    return replace(cascade, prior_noise_norms=noise_norms)
