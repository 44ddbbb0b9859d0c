"""Checks that the sections of a configuration fit each other."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.stages.clip import TrainedClip
from unclip.config import ConfigError
from unclip.generation.config import (
    check_decoder_sampler,
    check_guidance,
    check_upsampler_names,
)
from unclip.models import ARPriorConfig
from unclip.models.compatibility import check_compatibility
from unclip.models.frozen_text import check_clip_text

if TYPE_CHECKING:
    from pipelines.config.sections import PipelineConfig


def check_widths(config: "PipelineConfig") -> None:
    """Raise `ConfigError` if the models or the PCA do not fit the CLIP's embeddings."""
    width = config.clip.width
    if width is None:
        return
    for name, section in {**_readers(config), "decoder": config.decoder}.items():
        model: Any = section.model
        if model.embed_dim != width:
            raise ConfigError(
                f"{name}.model.embed_dim={model.embed_dim}, but the CLIP of section clip "
                f"makes embeddings of width {width}; set {name}.model.embed_dim={width}, or "
                "choose another CLIP"
            )
    if isinstance(config.clip, TrainedClip):
        for name, section in _readers(config).items():
            text = getattr(section.model, "text_encoder", None)
            if text is not None:
                check_clip_text(name, text, config.clip.architecture)
    if config.pca.dimensions > width:
        raise ConfigError(
            f"pca.dimensions={config.pca.dimensions} is more than the CLIP's width {width}; "
            f"give {width} or less"
        )


def check_models(config: "PipelineConfig") -> None:
    """Raise `ConfigError` if the models do not fit each other or their sampling settings."""
    sampling, decoder = config.evaluate.sampling, config.decoder.model
    upsamplers = {name: section.model for name, section in config.upsamplers.items()}
    check_upsampler_names(sampling, upsamplers)
    check_decoder_sampler(sampling, decoder)
    check_guidance("decoder", sampling.decoder.guidance_scale, decoder)
    for name, section in config.priors.items():
        prior: Any = section.model
        check_guidance("prior", sampling.prior.guidance_scale, prior)
        check_compatibility(prior, decoder, upsamplers)
        _check_context_length(name, prior, decoder)
        if isinstance(prior, ARPriorConfig) and prior.dimensions != config.pca.dimensions:
            raise ConfigError(
                f"priors.{name}.model.dimensions={prior.dimensions}, but pca.dimensions="
                f"{config.pca.dimensions}; it predicts the components that the PCA keeps, so "
                "make them equal"
            )


def check_towers(config: "PipelineConfig") -> None:
    """Raise `ConfigError` if a frozen text tower would start from random weights."""
    for name, section in {**_readers(config), "decoder": config.decoder}.items():
        if section.kind == "karlo" and section.init_from is None:
            raise ConfigError(
                f"{name}.init_from is null, but Karlo's text tower is frozen and would stay "
                "random; give the file of an imported Karlo"
            )


def _check_context_length(name: str, prior: Any, decoder: Any) -> None:
    if not hasattr(prior, "text_encoder"):
        return  # it reads no captions
    lengths = [model.text_encoder.context_length for model in (prior, decoder)]
    if lengths[0] != lengths[1]:
        raise ConfigError(
            f"priors.{name}.model.text_encoder.context_length={lengths[0]} and that of "
            f"decoder.model, {lengths[1]}, differ; captions are tokenised once for both, so make "
            "them equal"
        )


def _readers(config: "PipelineConfig") -> Mapping[str, Any]:
    """The priors by their path in the file."""
    return {f"priors.{name}": section for name, section in config.priors.items()}
