"""Autoregressive priors, in the three sizes of `cascades`."""

from unclip.models import ARPriorConfig
from unclip.presets.cascades import text_encoder


def tiny_ar_prior() -> ARPriorConfig:
    """For the demo: 20 of 64 components, and 64 buckets of an eighth of a standard deviation."""
    return ARPriorConfig(
        embed_dim=64,
        width=192,
        depth=4,
        heads=3,
        text_encoder=text_encoder(context_length=24, width=64, depth=1, heads=2),
        dimensions=20,
        buckets=64,
        bucket_reach=4.0,
        dot_bins=16,
        text_dropout=0.1,
    )


def small_ar_prior() -> ARPriorConfig:
    """For one GPU, with a 512-d CLIP such as ViT-B/32."""
    return ARPriorConfig(
        embed_dim=512,
        width=768,
        depth=12,
        heads=12,
        text_encoder=text_encoder(context_length=77, width=512, depth=6, heads=8),
        dimensions=256,
        buckets=1024,
        bucket_reach=4.0,
        dot_bins=128,
        text_dropout=0.1,
    )


def paper_ar_prior() -> ARPriorConfig:
    """Table 3 of the paper; the transformer takes the caption's token embeddings directly.

    According to the text, a sequence has 256 caption tokens, z_t, the dot product and 319 codes.
    The last code is never an input, so that makes 576 tokens. The table's 384 would be too few.
    """
    return ARPriorConfig(
        embed_dim=1024,
        width=1664,
        depth=24,
        heads=26,
        text_encoder=text_encoder(context_length=256, width=2048, depth=0, heads=32),
        dimensions=319,
        buckets=1024,
        bucket_reach=4.0,
        dot_bins=1024,
        text_dropout=0.1,
    )
