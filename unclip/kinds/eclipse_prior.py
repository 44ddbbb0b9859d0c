"""The ECLIPSE prior (Patel et al. 2024, section 3): one pass, and a contrastive loss."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, N preview rows

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.denoising.guidance import copies_for, guide, unconditional_rows
from unclip.kinds.previews import preview_sampled_prior
from unclip.kinds.spec import ModelSpec
from unclip.models import EclipsePrior, EclipsePriorConfig
from unclip.objectives.batch import Batch, expect, take
from unclip.objectives.draws import bernoulli
from unclip.precision import without_autocast
from unclip.presets import paper_eclipse_prior, small_eclipse_prior, tiny_eclipse_prior
from unclip.samplers import Generators, randn


def eclipse_prior_loss(model: EclipsePrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """The projection loss |ẑ_i - z_i|², averaged over rows, plus λ times `contrastive_loss`.

    Negatives come only from the logical rank's own microbatch, so the loss does not depend on the
    number of workers.
    """
    config = model.config
    text_embeds, tokens = take(batch, "text_embeds", "tokens")
    text_embeds = text_embeds.float()
    image_embeds = expect(batch, "image_embeds", (config.embed_dim,)).float()
    noise = randn(tuple(image_embeds.shape), generator=generator, device=image_embeds.device)
    dropped = bernoulli(config.text_dropout, len(noise), generator, noise.device)
    predicted: Tensor = model(noise, model.condition(tokens, text_embeds, dropped))
    predicted = predicted.float()  # (B, E)
    projection = (predicted - image_embeds).square().sum(-1).mean()
    contrastive = contrastive_loss(
        predicted, text_embeds, kept=~dropped, temperature=config.contrastive_temperature
    )
    return projection + config.contrastive_weight * contrastive


def contrastive_loss(
    predicted: Tensor, text_embeds: Tensor, *, kept: Tensor, temperature: float
) -> Tensor:
    """Mean cross-entropy of finding a row's own text among all texts of the batch, in nats.

    predicted: (B, E) of any norm; text_embeds: (B, E) unit-norm; kept: (B,) bool, the rows that
    are averaged. A row whose caption was dropped has no text to find. Equal texts share the
    probability, so they are no negatives of each other.
    """
    with without_autocast(predicted.device):  # bf16 is too coarse
        logits = F.normalize(predicted, dim=-1) @ text_embeds.T / temperature  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    losses = F.cross_entropy(logits, own, reduction="none")  # (B,)
    return (losses * kept).sum() / kept.sum().clamp(min=1)


@torch.no_grad()
def sample_image_embeds(
    model: EclipsePrior,
    tokens: Tensor,
    text_embeds: Tensor,
    *,
    guidance_scale: float,
    temperature: float,  # noqa: ARG001
    generator: Generators | None,
) -> Tensor:
    """Sample unit-norm image embeddings (B, E).

    tokens: (B, L) int64; text_embeds: (B, E) unit-norm; guidance_scale: 1 for no guidance;
    above 1, extrapolates away from the prediction without a caption; temperature: ignored. Each row
    consumes E normal draws.
    """
    shape, copies = tuple(text_embeds.shape), copies_for(guidance_scale)
    noise = randn(shape, generator=generator, device=text_embeds.device)  # the same in all copies
    dropped = unconditional_rows(len(tokens), copies, tokens.device)
    condition = model.condition(tokens.repeat(copies, 1), text_embeds.repeat(copies, 1), dropped)
    predicted: Tensor = model(noise.repeat(copies, 1), condition)  # (copies * B, E)
    return F.normalize(guide(predicted.float(), copies, guidance_scale), dim=-1)


def preview(model: EclipsePrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """`similarity_maps` of the predicted image embeddings; (2, 3, N, N)."""
    return preview_sampled_prior(model, batch, generator, sample_image_embeds)


SPEC = ModelSpec(
    role="prior",
    kind="eclipse",
    config=EclipsePriorConfig,
    network=EclipsePrior,
    loss=eclipse_prior_loss,
    batch_fields=("image_embeds", "text_embeds", "tokens"),
    sample=sample_image_embeds,
    preview=preview,
    presets={
        "tiny": tiny_eclipse_prior,
        "small": small_eclipse_prior,
        "paper": paper_eclipse_prior,
    },
)
