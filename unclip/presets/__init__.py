"""Typed configs to start from: three sizes of our own, and Karlo's published models."""

from unclip.presets.ar_priors import paper_ar_prior, small_ar_prior, tiny_ar_prior
from unclip.presets.cascades import paper, small, tiny
from unclip.presets.karlo import karlo
from unclip.presets.one_pass_priors import (
    paper_eclipse_prior,
    paper_linear_prior,
    small_eclipse_prior,
    small_linear_prior,
    tiny_eclipse_prior,
    tiny_linear_prior,
)
from unclip.presets.preset import CLIP_VOCAB_SIZE, Preset, with_embed_dim

__all__ = [
    "CLIP_VOCAB_SIZE",
    "Preset",
    "karlo",
    "paper",
    "paper_ar_prior",
    "paper_eclipse_prior",
    "paper_linear_prior",
    "small",
    "small_ar_prior",
    "small_eclipse_prior",
    "small_linear_prior",
    "tiny",
    "tiny_ar_prior",
    "tiny_eclipse_prior",
    "tiny_linear_prior",
    "with_embed_dim",
]
