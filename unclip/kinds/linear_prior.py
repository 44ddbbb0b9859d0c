"""The linear prior, a baseline for the others: least squares from text to image embeddings."""

# B batch, E width of the CLIP embeddings, N preview rows

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.kinds.previews import COLUMNS, similarity_maps
from unclip.kinds.spec import ModelSpec
from unclip.models import LinearPrior, LinearPriorConfig
from unclip.objectives.batch import Batch, expect
from unclip.presets import paper_linear_prior, small_linear_prior, tiny_linear_prior


def linear_prior_loss(model: LinearPrior, batch: Batch, _generator: torch.Generator) -> Tensor:
    """|W z_t + b - z_i|², averaged over rows; in the units of the diffusion prior's loss.

    The prediction is not normalised, so the minimum is the least-squares solution.
    """
    width = (model.config.embed_dim,)
    text_embeds = expect(batch, "text_embeds", width)
    image_embeds = expect(batch, "image_embeds", width)
    predicted: Tensor = model(text_embeds.float())
    return (predicted.float() - image_embeds.float()).square().sum(-1).mean()


@torch.no_grad()
def sample_image_embeds(
    model: LinearPrior, _tokens: Tensor, text_embeds: Tensor, **_settings: object
) -> Tensor:
    """Unit-norm image embeddings (B, E) for text_embeds: (B, E).

    There is no caption to drop and no noise, so guidance, temperature and generator have no effect.
    """
    predicted: Tensor = model(text_embeds)
    return F.normalize(predicted.float(), dim=-1)


def preview(model: LinearPrior, batch: Batch, _generator: torch.Generator) -> Tensor:
    """`similarity_maps` of the predicted image embeddings; (2, 3, N, N)."""
    with torch.no_grad():
        predicted = model(batch["text_embeds"][:COLUMNS])
    return similarity_maps(batch["image_embeds"][:COLUMNS], predicted)


SPEC = ModelSpec(
    role="prior",
    kind="linear",
    config=LinearPriorConfig,
    network=LinearPrior,
    loss=linear_prior_loss,
    batch_fields=("image_embeds", "text_embeds"),
    sample=sample_image_embeds,
    preview=preview,
    presets={"tiny": tiny_linear_prior, "small": small_linear_prior, "paper": paper_linear_prior},
)
