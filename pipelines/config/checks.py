"""Checks that the sections of a configuration fit each other."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.stages.clip import TrainedClip
from pipelines.study.variants import Models
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
    for name, section in {**_readers(config), **config.decoders}.items():
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
    for path, each in config.decoders.items():
        check_decoder_sampler(sampling, each.model)
        check_guidance(path, sampling.decoder.guidance_scale, each.model)
        check_compatibility(None, each.model, upsamplers)
        _check_context_length(path, each.model, decoder)
    for name, section in config.priors.items():
        prior: Any = section.model
        check_guidance("prior", sampling.prior.guidance_scale, prior)
        check_compatibility(prior, decoder, upsamplers)
        _check_context_length(f"priors.{name}", prior, decoder)
        if isinstance(prior, ARPriorConfig) and prior.dimensions != config.pca.dimensions:
            raise ConfigError(
                f"priors.{name}.model.dimensions={prior.dimensions}, but pca.dimensions="
                f"{config.pca.dimensions}; it predicts the components that the PCA keeps, so "
                "make them equal"
            )


def check_towers(config: "PipelineConfig") -> None:
    """Raise `ConfigError` if a frozen text tower would start from random weights."""
    for name, section in {**_readers(config), **config.decoders}.items():
        if section.kind == "karlo" and section.init_from is None:
            raise ConfigError(
                f"{name}.init_from is null, but Karlo's text tower is frozen and would stay "
                "random; give the file of an imported Karlo"
            )


def check_study(config: "PipelineConfig") -> None:
    """Raise `ConfigError` if baselines are trained for nothing, or a model is named like a source.

    Guidance scales need models that learned the null condition.
    """
    if config.study is None:
        if config.baselines:
            raise ConfigError(
                f"baselines trains {', '.join(config.baselines)}, but study is null, so nothing "
                "would compare them; give study: {captions: 64, batch_size: 32}, or no baselines"
            )
        return
    Models(tuple(config.priors), tuple(config.baselines))
    for scale in config.study.decoder_guidance:
        check_guidance("decoder", scale, config.decoder.model)
    for scale in config.study.prior_guidance:
        check_guidance("prior", scale, next(iter(config.priors.values())).model)


def _check_context_length(path: str, model: Any, decoder: Any) -> None:
    if not hasattr(model, "text_encoder"):
        return  # it reads no captions
    lengths = [each.text_encoder.context_length for each in (model, decoder)]
    if lengths[0] != lengths[1]:
        raise ConfigError(
            f"{path}.model.text_encoder.context_length={lengths[0]} and that of decoder.model, "
            f"{lengths[1]}, differ; captions are tokenised once for both, so make "
            "them equal"
        )


def _readers(config: "PipelineConfig") -> Mapping[str, Any]:
    """The priors by their path in the file."""
    return {f"priors.{name}": section for name, section in config.priors.items()}
