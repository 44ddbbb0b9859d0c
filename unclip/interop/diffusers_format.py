"""Karlo's pipelines in the folder format of diffusers, read and written without diffusers.

A folder has `model_index.json`, and a subfolder per component with JSON settings and safetensors.
UnCLIPPipeline has a prior; UnCLIPImageVariationPipeline has CLIP's image tower instead.

Written folders use the class names of the published Karlo folders. diffusers has since moved the
class of `text_proj`, so it loads any such folder, ours and the published ones, only after
`diffusers.pipelines.unclip = diffusers.pipelines.deprecated.unclip`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch

from unclip.clip.frozen import FrozenClip
from unclip.generation import (
    Cascade,
    DecoderSampling,
    PriorSampling,
    SamplingConfig,
    UpsamplerSampling,
)
from unclip.interop import configs, key_mapping
from unclip.interop.clip_towers import check_tokenizer, read_clip, write_clip, write_tokenizer
from unclip.interop.errors import InteropError
from unclip.interop.exportable import Parts, expressible
from unclip.interop.karlo_checkpoints import (
    are_checkpoints,
    published_layout,
    read_checkpoints,
)
from unclip.interop.settings import Settings, read_json, write_json
from unclip.interop.unet_configs import Json
from unclip.interop.weights import Tensors, build_from, read_tensors, unload, write_tensors
from unclip.models import KarloDecoder, KarloPrior, KarloUpsampler
from unclip.models.karlo import ClipTextConfig
from unclip.pipeline import UnclipPipeline
from unclip.pretrained.folder import share_text_tower

TEXT_TO_IMAGE, VARIATION = "UnCLIPPipeline", "UnCLIPImageVariationPipeline"
CLASSES = {
    key_mapping.PRIOR: ("diffusers", "PriorTransformer"),
    key_mapping.DECODER: ("diffusers", "UNet2DConditionModel"),
    key_mapping.TEXT_PROJ: ("unclip", "UnCLIPTextProjModel"),
    key_mapping.SUPER_RES_FIRST: ("diffusers", "UNet2DModel"),
    key_mapping.SUPER_RES_LAST: ("diffusers", "UNet2DModel"),
    key_mapping.TEXT_ENCODER: ("transformers", "CLIPTextModelWithProjection"),
    key_mapping.IMAGE_ENCODER: ("transformers", "CLIPVisionModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "feature_extractor": ("transformers", "CLIPImageProcessor"),
    "prior_scheduler": ("diffusers", "UnCLIPScheduler"),
    "decoder_scheduler": ("diffusers", "UnCLIPScheduler"),
    "super_res_scheduler": ("diffusers", "UnCLIPScheduler"),
}
ONLY = {
    TEXT_TO_IMAGE: (key_mapping.PRIOR, "prior_scheduler"),
    VARIATION: (key_mapping.IMAGE_ENCODER, "feature_extractor"),
}
VERSION = "0.33.1"  # `_last_supported_version` of these pipelines in diffusers
KARLO_SAMPLING = SamplingConfig(  # as its authors recommend; the smaller of their step counts
    prior=PriorSampling(
        sampler="ddpm_fixed_small", num_inference_steps=25, guidance_scale=4.0, candidates=1
    ),
    decoder=DecoderSampling(
        sampler="ddpm_learned", num_inference_steps=25, guidance_scale=8.0, dynamic_threshold=None
    ),
    upsamplers={
        "upsampler_1": UpsamplerSampling(sampler="ddpm_fixed_small", num_inference_steps=7)
    },
    eta=1.0,
    bf16=False,
)


def read_pipeline(
    folder: Path | str,
    *,
    sampling: SamplingConfig = KARLO_SAMPLING,
    device: torch.device | str = "cpu",
) -> UnclipPipeline:
    """Read the models from a diffusers folder, or from Karlo's original checkpoints.

    Raises `InteropError` for any other path.
    """
    folder, device = Path(folder), torch.device(device)
    if are_checkpoints(folder):
        models = read_checkpoints(folder, published_layout(), device=device)
        return _pipeline(models.prior, models.decoder, models.upsampler, sampling, models.clip)
    kind = _kind(folder)
    text = configs.read_text(_settings(folder, key_mapping.TEXT_ENCODER))
    check_tokenizer(folder / "tokenizer")
    text_weights = _weights(folder, key_mapping.TEXT_ENCODER)
    decoder = _read_decoder(folder, text, text_weights)
    prior = _read_prior(folder, text, text_weights) if kind == TEXT_TO_IMAGE else None
    upsampler = _read_upsampler(folder, decoder.config.image_size)
    clip = None
    if kind == VARIATION:
        towers = {key_mapping.TEXT_ENCODER: text_weights} | _read_weights(
            folder, key_mapping.IMAGE_ENCODER
        )
        image_encoder = _settings(folder, key_mapping.IMAGE_ENCODER)
        extractor = _settings(folder, "feature_extractor", "preprocessor_config.json")
        clip = read_clip(image_encoder, extractor, text, towers, device=device)
    prior = prior and prior.to(device)
    return _pipeline(prior, decoder.to(device), upsampler.to(device), sampling, clip)


def _pipeline(
    prior: KarloPrior | None,
    decoder: KarloDecoder,
    upsampler: KarloUpsampler,
    sampling: SamplingConfig,
    clip: FrozenClip | None,
) -> UnclipPipeline:
    share_text_tower(prior, decoder)
    cascade = Cascade(
        prior=prior,
        decoder=decoder,
        upsamplers={"upsampler_1": upsampler},
        sampling=sampling,
    )
    return UnclipPipeline(cascade, clip)


def _kind(folder: Path) -> str:
    """The class name of the pipeline in the folder; raises `InteropError` if it is not Karlo's."""
    index = read_json(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind not in ONLY:
        raise InteropError(
            f"{folder / 'model_index.json'}: _class_name={kind!r}; give the folder of an "
            f"{' or '.join(ONLY)}"
        )
    for component in _components(kind):
        given = index.get(component)
        if not isinstance(given, list) or given[-1:] != [CLASSES[component][1]]:
            raise InteropError(
                f"{folder / 'model_index.json'}: {component}={given!r}, but Karlo has a "
                f"{CLASSES[component][1]} there"
            )
    return str(kind)


def _components(kind: str) -> Iterator[str]:
    """The components of a pipeline whose classes are checked."""
    others = {name for other, only in ONLY.items() if other != kind for name in only}
    return (name for name in CLASSES if name not in others and name in STRICT)


STRICT = {*CLASSES} - {"tokenizer", "feature_extractor"}  # these classes have several names


def _read_prior(folder: Path, text: ClipTextConfig, text_weights: Tensors) -> KarloPrior:
    scheduler = _scheduler(folder, "prior_scheduler")
    config = configs.read_prior(_settings(folder, key_mapping.PRIOR), scheduler, text)
    components = {key_mapping.TEXT_ENCODER: text_weights} | _read_weights(folder, key_mapping.PRIOR)
    return cast(KarloPrior, build_from(config, key_mapping.prior_table(config), components))


def _read_decoder(folder: Path, text: ClipTextConfig, text_weights: Tensors) -> KarloDecoder:
    config = configs.read_decoder(
        _settings(folder, key_mapping.DECODER),
        _settings(folder, key_mapping.TEXT_PROJ),
        _scheduler(folder, "decoder_scheduler"),
        text,
    )
    components = {key_mapping.TEXT_ENCODER: text_weights}
    components |= _read_weights(folder, key_mapping.DECODER, key_mapping.TEXT_PROJ)
    return cast(KarloDecoder, build_from(config, key_mapping.decoder_table(config), components))


def _read_upsampler(folder: Path, low_res_size: int) -> KarloUpsampler:
    """Read both networks, whose configs must be equal."""
    first, last = (
        configs.read_upsampler(
            _settings(folder, component), _scheduler(folder, "super_res_scheduler"), low_res_size
        )
        for component in (key_mapping.SUPER_RES_FIRST, key_mapping.SUPER_RES_LAST)
    )
    if first != last:
        raise InteropError(
            f"{folder}: super_res_first is {first}, but super_res_last is {last}; Karlo's two have "
            "equal configs"
        )
    components = _read_weights(folder, key_mapping.SUPER_RES_FIRST, key_mapping.SUPER_RES_LAST)
    return cast(KarloUpsampler, build_from(first, key_mapping.upsampler_table(first), components))


def _settings(folder: Path, component: str, file: str = "config.json") -> Settings:
    return Settings.read(folder / component / file)


def _scheduler(folder: Path, component: str) -> Settings:
    return _settings(folder, component, "scheduler_config.json")


def _read_weights(folder: Path, *components: str) -> dict[str, Tensors]:
    return {component: _weights(folder, component) for component in components}


def _weights(folder: Path, component: str) -> Tensors:
    return read_tensors(folder / component, _stem(component))


def _stem(component: str) -> str:
    """The stem of the weights file, which depends on the component's library."""
    return "model" if CLASSES[component][0] == "transformers" else "diffusion_pytorch_model"


def write_pipeline(
    folder: Path | str, pipeline: UnclipPipeline, *, variation: bool = False
) -> None:
    """Write a folder that diffusers loads as UnCLIPPipeline or, with `variation`, the other one.

    Raises `InteropError` for models that diffusers has no classes for, before anything is written.
    """
    folder, parts = Path(folder), expressible(pipeline, variation=variation)
    tensors = unload(parts.decoder, key_mapping.decoder_table(parts.decoder.config))
    tensors |= unload(parts.upsampler, key_mapping.upsampler_table(parts.upsampler.config))
    if pipeline.clip is not None and variation:
        tensors[key_mapping.IMAGE_ENCODER] = write_clip(folder, pipeline.image_tower)
    if parts.prior is not None:
        tensors |= unload(parts.prior, key_mapping.prior_table(parts.prior.config))
        _write_prior_settings(folder, parts.prior)
    for component, weights in tensors.items():
        write_tensors(folder / component, _stem(component), weights)
    _write_settings(folder, parts)
    _write_index(folder, VARIATION if variation else TEXT_TO_IMAGE)


def _write_prior_settings(folder: Path, prior: KarloPrior) -> None:
    config = prior.config
    _write(folder, key_mapping.PRIOR, configs.write_prior(config))
    scheduler = configs.write_scheduler(
        config.train_timesteps,
        prediction="sample",
        variance="fixed_small_log",
        limit=config.x_start_limit,
    )
    _write(folder, "prior_scheduler", scheduler)


def _write_settings(folder: Path, parts: Parts) -> None:
    decoder, upsampler = parts.decoder.config, parts.upsampler.config
    write_json(
        folder / key_mapping.TEXT_ENCODER / "config.json", configs.write_text(decoder.text_encoder)
    )
    write_tokenizer(folder / "tokenizer", context_length=decoder.text_encoder.context_length)
    _write(folder, key_mapping.DECODER, configs.write_decoder(decoder))
    _write(folder, key_mapping.TEXT_PROJ, configs.write_text_proj(decoder))
    for component in (key_mapping.SUPER_RES_FIRST, key_mapping.SUPER_RES_LAST):
        _write(folder, component, configs.write_upsampler(upsampler))
    for component, variance, timesteps in (
        ("decoder_scheduler", "learned_range", decoder.train_timesteps),
        ("super_res_scheduler", "fixed_small_log", upsampler.train_timesteps),
    ):
        scheduler = configs.write_scheduler(
            timesteps, prediction="epsilon", variance=variance, limit=1.0
        )
        _write(folder, component, scheduler)


def _write(folder: Path, component: str, content: Json) -> None:
    """Write the settings of one component, with the version entry of diffusers."""
    file = "scheduler_config.json" if component.endswith("scheduler") else "config.json"
    write_json(folder / component / file, content | {"_diffusers_version": VERSION})


def _write_index(folder: Path, kind: str) -> None:
    """Write the index. It is written last, so a folder without it is incomplete."""
    others = {name for other, only in ONLY.items() if other != kind for name in only}
    components = {name: list(of) for name, of in CLASSES.items() if name not in others}
    index = {"_class_name": kind, "_diffusers_version": VERSION}
    write_json(folder / "model_index.json", index | components)
