"""The autoregressive prior of the paper (section 2.2): it samples one code after the other.

All noise of a row is drawn before its first code, so equal noise gives equal codes.
"""

# B batch, L tokens of the captions, E width of the CLIP embeddings, K components, k codes so far

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.denoising.guidance import copies_for, guide, unconditional_rows
from unclip.kinds.previews import preview_sampled_prior
from unclip.kinds.spec import ModelSpec
from unclip.models import ARPrior, ARPriorConfig
from unclip.models.prior import PriorCondition
from unclip.objectives.batch import Batch, expect, take
from unclip.objectives.draws import bernoulli
from unclip.presets import paper_ar_prior, small_ar_prior, tiny_ar_prior
from unclip.samplers import Generators, randn

# Maps the codes so far (B, k) to the logits of the next code (B, buckets).
NextLogits = Callable[[Tensor], Tensor]


def ar_prior_loss(model: ARPrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean cross-entropy of the codes, in nats per code (section 2.2 of the paper)."""
    config = model.config
    text_embeds, tokens = take(batch, "text_embeds", "tokens")
    image_embeds = expect(batch, "image_embeds", (config.embed_dim,))
    codes = model.encode(image_embeds)  # (B, K)
    dots = model.dots(image_embeds, text_embeds)
    dropped = bernoulli(config.text_dropout, len(codes), generator, codes.device)
    condition = model.condition(tokens, text_embeds.float(), dots, dropped)
    logits: Tensor = model(codes[:, :-1], condition)  # (B, K, buckets)
    return F.cross_entropy(rearrange(logits.float(), "b k c -> (b k) c"), codes.flatten())


def sample_image_embeds(
    model: ARPrior,
    tokens: Tensor,
    text_embeds: Tensor,
    *,
    guidance_scale: float,
    temperature: float,
    generator: Generators,
) -> Tensor:
    """Sample unit-norm image embeddings (B, E); arguments as for `sample_codes`."""
    codes = sample_codes(
        model,
        tokens,
        text_embeds,
        guidance_scale=guidance_scale,
        temperature=temperature,
        generator=generator,
    )
    return model.decode(codes)


@torch.no_grad()
def sample_codes(
    model: ARPrior,
    tokens: Tensor,
    text_embeds: Tensor,
    *,
    guidance_scale: float,
    temperature: float,
    generator: Generators | None,
    cached: bool = True,
) -> Tensor:
    """Sample codes for captions; (B, K) int64.

    tokens: (B, L) int64; text_embeds: (B, E) unit-norm; guidance_scale: 1 for no guidance;
    temperature: divides the logits; cached: whether to use a key-value cache. Each code consumes
    one normal draw.
    """
    config = model.config
    shape = (len(tokens), 1 + config.dimensions)
    noise = randn(shape, generator=generator, device=tokens.device)
    uniform = torch.special.ndtr(noise.double())  # (B, 1 + K) in [0, 1]
    dots = draw_dots(uniform[:, 0], bins=config.dot_bins)
    copies = copies_for(guidance_scale)
    dropped = unconditional_rows(len(tokens), copies, tokens.device)
    condition = model.condition(
        tokens.repeat(copies, 1), text_embeds.repeat(copies, 1), dots.repeat(copies), dropped
    )
    next_logits = cached_logits(model, condition) if cached else uncached_logits(model, condition)
    codes = tokens.new_empty(len(tokens), 0)
    for position in range(config.dimensions):
        logits = next_logits(codes.repeat(copies, 1)).float()  # (copies * B, buckets)
        logits = guide(logits, copies, guidance_scale)
        drawn = draw(logits / temperature, uniform[:, 1 + position])
        codes = torch.cat([codes, drawn[:, None]], dim=1)  # (B, k + 1)
    return codes


def cached_logits(model: ARPrior, condition: PriorCondition) -> NextLogits:
    """The next logits with a key-value cache: each token is computed once."""
    caches = model.new_caches()

    def next_logits(codes: Tensor) -> Tensor:
        logits: Tensor = model(codes, condition, caches)[:, -1]
        return logits

    return next_logits


def uncached_logits(model: ARPrior, condition: PriorCondition) -> NextLogits:
    """The next logits without a cache: the whole sequence is computed again for each code."""

    def next_logits(codes: Tensor) -> Tensor:
        logits: Tensor = model(codes, condition)[:, -1]
        return logits

    return next_logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF sampling; logits: (B, buckets), uniform: (B,) in [0, 1] -> (B,) int64."""
    cumulative = logits.double().softmax(-1).cumsum(-1)  # (B, buckets)
    drawn = torch.searchsorted(cumulative, uniform[:, None].contiguous(), right=True)[:, 0]
    return drawn.clamp(max=logits.shape[-1] - 1)


def draw_dots(uniform: Tensor, *, bins: int) -> Tensor:
    """Draw a dot-product bin from the upper half, as in section 2.2 of the paper; (B,) int64.

    Bins are equally frequent in the training data, so these are the largest 50% of dot products.
    """
    half = bins // 2
    return half + (uniform * half).long().clamp(max=half - 1)


def preview(model: ARPrior, batch: Batch, generator: torch.Generator) -> Tensor:
    """`similarity_maps` of the predicted image embeddings; (2, 3, N, N)."""
    return preview_sampled_prior(model, batch, generator, sample_image_embeds)


SPEC = ModelSpec(
    role="prior",
    kind="autoregressive",
    config=ARPriorConfig,
    network=ARPrior,
    loss=ar_prior_loss,
    batch_fields=("image_embeds", "text_embeds", "tokens"),
    sample=sample_image_embeds,
    preview=preview,
    presets={"tiny": tiny_ar_prior, "small": small_ar_prior, "paper": paper_ar_prior},
)
