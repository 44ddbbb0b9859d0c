"""Pictures that show how far a model in training is: the truth above, what it makes of it below."""

# B batch, S image size

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.generation.denoisers import decoder_denoiser, schedule_of, upsampler_denoiser
from unclip.models import Decoder, Upsampler
from unclip.samplers import ddim, randn
from unclip.training import Batch

PREVIEW_STEPS = 20
COLUMNS = 8


@torch.no_grad()
def preview(model: nn.Module, batch: Batch, *, generator: torch.Generator) -> Tensor | None:
    """Rows of (3, S, S) pictures in [-1, 1], COLUMNS to a row; None for models that make none.

    batch: "pixels" and what the model is conditioned on, at least one row.
    """
    if isinstance(model, Decoder):
        truth = batch["pixels"][:COLUMNS]
        denoise = decoder_denoiser(
            model,
            batch["image_embeds"][:COLUMNS],
            batch["tokens"][:COLUMNS],
            guidance_scale=1.0,
            dynamic_threshold=None,
        )
        given: list[Tensor] = []
    elif isinstance(model, Upsampler):
        truth = batch["pixels"][:COLUMNS]
        low_res = F.interpolate(truth, size=model.config.low_res_size, mode="area")
        enlarged = model.condition(low_res)
        denoise = upsampler_denoiser(model, enlarged)
        given = [F.interpolate(low_res, size=truth.shape[-1], mode="nearest")]
    else:
        return None
    made = ddim(
        denoise,
        randn(tuple(truth.shape), generator=generator, device=truth.device),
        schedule=schedule_of(model, truth.device),
        num_inference_steps=PREVIEW_STEPS,
        eta=0.0,
        generator=generator,
    )
    if isinstance(model, Upsampler):
        made = model.to_pixels(made, enlarged)
    return torch.cat([truth, *given, made.clamp(-1, 1)])
