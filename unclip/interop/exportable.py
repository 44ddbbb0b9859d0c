"""Merges Karlo's two pipelines, and selects the models that diffusers can express."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from unclip.interop.errors import InteropError
from unclip.models import KarloDecoder, KarloPrior, KarloUpsampler
from unclip.pipeline import UnclipPipeline
from unclip.pretrained.folder import first_difference, share_text_tower


def merge(read: Sequence[UnclipPipeline]) -> UnclipPipeline:
    """Merge pipelines with equal decoders and upsamplers, of which one has the prior, one CLIP.

    Raises `InteropError` if decoders or upsamplers differ.
    """
    pipeline, *others = read
    for other in others:
        for name in ("decoder", "upsampler_1"):
            ours, theirs = pipeline.cascade.models[name], other.cascade.models[name]
            if differing := first_difference(ours, theirs):
                raise InteropError(
                    f"the folders have different models: the tensor {differing} of {name} differs; "
                    "give the two pipelines of the same Karlo"
                )
        prior = pipeline.cascade.prior or other.cascade.prior
        pipeline = UnclipPipeline(
            replace(pipeline.cascade, prior=prior), pipeline.clip or other.clip
        )
    share_text_tower(pipeline.cascade.prior, pipeline.cascade.decoder)
    return pipeline


class Parts(NamedTuple):
    """The models from which a diffusers folder is written."""

    prior: KarloPrior | None  # None for image variation
    decoder: KarloDecoder
    upsampler: KarloUpsampler


def expressible(pipeline: UnclipPipeline, *, variation: bool) -> Parts:
    """The pipeline's models; raises `InteropError` for a model that diffusers has no class for."""
    cascade = pipeline.cascade
    decoder = cascade.decoder
    if len(cascade.upsamplers) != 1:
        others = ", ".join([*cascade.upsamplers][1:]) or "a cascade without an upsampler"
        raise _inexpressible(others, "these pipelines have one upsampler")
    [(name, upsampler)] = cascade.upsamplers.items()
    if not isinstance(decoder, KarloDecoder):
        raise _inexpressible("decoder", "it reads captions with a text encoder of its own")
    if not isinstance(upsampler, KarloUpsampler):
        raise _inexpressible(name, "it has one network, and upsamples and diffuses differently")
    prior = None if variation else _expressible_prior(cascade.prior, decoder)
    if variation and pipeline.clip is None:
        raise InteropError(
            "an UnCLIPImageVariationPipeline needs CLIP's image tower, which these models lack; "
            "export the text-to-image pipeline"
        )
    for name, model in cascade.models.items():
        if getattr(model.config, "schedule", "cosine") != "cosine":
            raise _inexpressible(name, "UnCLIPScheduler has only the cosine schedule")
    return Parts(prior, decoder, upsampler)


def _expressible_prior(prior: nn.Module | None, decoder: KarloDecoder) -> KarloPrior:
    if prior is None:
        raise InteropError(
            "an UnCLIPPipeline needs a prior, which these models lack; export the image variation "
            "pipeline"
        )
    if not isinstance(prior, KarloPrior):
        raise _inexpressible("prior", "it encodes captions differently from a PriorTransformer")
    if differing := first_difference(prior.text_encoder, decoder.text_encoder):
        raise InteropError(
            f"prior and decoder have different text towers ({differing} differs), but this format "
            "stores only one; train both on the same CLIP"
        )
    return prior


def _inexpressible(name: str, reason: str) -> InteropError:
    return InteropError(
        f"{name} cannot be exported: {reason}, for which diffusers has no class. Models of Karlo's "
        "architecture can be, whether imported or trained here"
    )
