"""Priors that predict in one pass, linear and ECLIPSE, in the three sizes of `cascades`."""

from unclip.models import EclipsePriorConfig, LinearPriorConfig
from unclip.presets.cascades import text_encoder


def tiny_linear_prior() -> LinearPriorConfig:
    """For the demo."""
    return LinearPriorConfig(embed_dim=64)


def small_linear_prior() -> LinearPriorConfig:
    """For a 512-d CLIP such as ViT-B/32."""
    return LinearPriorConfig(embed_dim=512)


def paper_linear_prior() -> LinearPriorConfig:
    """For a 1024-d CLIP."""
    return LinearPriorConfig(embed_dim=1024)


def tiny_eclipse_prior() -> EclipsePriorConfig:
    """For the demo, with the temperature at which the training of its CLIP starts."""
    return EclipsePriorConfig(
        embed_dim=64,
        width=128,
        depth=2,
        heads=2,
        text_encoder=text_encoder(context_length=24, width=32, depth=1, heads=2),
        contrastive_weight=0.2,
        contrastive_temperature=0.07,
        text_dropout=0.1,
    )


def small_eclipse_prior() -> EclipsePriorConfig:
    """A tenth of the diffusion prior of this size."""
    return EclipsePriorConfig(
        embed_dim=512,
        width=256,
        depth=8,
        heads=4,
        text_encoder=text_encoder(context_length=77, width=128, depth=2, heads=2),
        contrastive_weight=0.2,
        contrastive_temperature=0.01,  # of OpenAI's CLIPs, and of most others
        text_dropout=0.1,
    )


def paper_eclipse_prior() -> EclipsePriorConfig:
    """The 33 million parameters of the ECLIPSE paper, without the vocabulary.

    Like the other priors of this size, it takes the caption's token embeddings directly.
    """
    return EclipsePriorConfig(
        embed_dim=1024,
        width=512,
        depth=10,
        heads=16,
        text_encoder=text_encoder(context_length=256, width=512, depth=0, heads=16),
        contrastive_weight=0.2,
        contrastive_temperature=0.01,
        text_dropout=0.1,
    )
