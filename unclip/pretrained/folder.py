"""Read and write a folder of models.

It has a `<model name>.safetensors` per model, written by `save_model`; `clip/`, written by
`FrozenClip.save`; `sampling.json` with the sampling settings, whose "upsamplers" give the
upsamplers' names and order; and `manifest.json` with the digests of the weights.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unclip.checkpoint import CheckpointError, check_file, config_from_json, load_model, save_model
from unclip.config import ConfigError
from unclip.generation import Cascade, SamplingConfig
from unclip.models import KarloDecoder, KarloPrior
from unclip.pretrained.download import SAMPLING
from unclip.pretrained.manifest import MANIFEST, check_digests, read_manifest, write_manifest

log = logging.getLogger(__name__)

CLIP = "clip"


def file_of(model: str) -> str:
    """The file name of the model with this name."""
    return f"{model}.safetensors"


def load_cascade(folder: Path, *, device: torch.device) -> Cascade:
    """The models of a folder; raises like `check_folder`, before it loads weights."""
    sampling = check_folder(folder)
    models: dict[str, Any] = {
        name: load_model(folder / file_of(name), device=device)
        for name in models_in(folder, sampling)
    }
    share_text_tower(models.get("prior"), models["decoder"])
    log.info("loaded %s from %s", ", ".join(models), folder)
    return Cascade(
        prior=models.get("prior"),
        decoder=models["decoder"],
        upsamplers={name: models[name] for name in sampling.upsamplers},
        sampling=sampling,
    )


def save_cascade(cascade: Cascade, folder: Path, *, half: bool) -> None:
    """Write the models and the sampling settings; half: store the weights as float16.

    Raises `ConfigError` if the prior's sampler needs noise norms, which the folder cannot hold.
    """
    sampler = cascade.sampling.prior.sampler
    if cascade.prior_noise_norms is not None:
        raise ConfigError(
            f"sampling.prior.sampler={sampler!r} needs noise norms of real captions, which a "
            "folder of models does not have; choose another sampler, such as ddim, before you save"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in cascade.models.items():
        save_model(folder / file_of(name), model, half=half)
    content = asdict(cascade.sampling)
    content["upsamplers"] = {name: content["upsamplers"][name] for name in cascade.upsamplers}
    (folder / SAMPLING).write_text(json.dumps(content, indent=2) + "\n")


def seal(folder: Path) -> None:
    """Write the manifest of all weights, and of the files of the CLIP."""
    found = [*folder.glob("*.safetensors"), *(folder / CLIP).rglob("*")]
    files = [file for file in found if file.is_file()]
    for file in files:
        file.chmod(0o644)  # safetensors lets nobody else read its files
    write_manifest(folder, [file.relative_to(folder).as_posix() for file in files])


def check_folder(folder: Path) -> SamplingConfig:
    """Check that `load_cascade` can load a folder; returns its sampling settings.

    Reads the weights only for their digests. Raises as `read_settings` does, `CheckpointError` if a
    file is incomplete or its tensors do not fit its config, and `ManifestError` for a wrong digest.
    """
    sampling = read_settings(folder)
    for name in models_in(folder, sampling):
        with (folder / file_of(name)).open("rb") as file:
            check_file(file, where=str(folder / file_of(name)))
    check_digests(folder)
    return sampling


def read_settings(folder: Path) -> SamplingConfig:
    """The sampling settings of a folder; looks at no weights.

    Raises `ConfigError` if a file is missing or the settings are wrong, and `ManifestError` for
    another version of the folder.
    """
    _check_there(folder, (SAMPLING, MANIFEST))
    read_manifest((folder / MANIFEST).read_text(), where=str(folder / MANIFEST))
    sampling = read_sampling(folder / SAMPLING)
    _check_there(folder, [file_of(name) for name in ("decoder", *sampling.upsamplers)])
    return sampling


def _check_there(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} is not a folder of models: {', '.join(missing)} missing; give one that "
            "`unclip import`, `unclip export` or `UnclipPipeline.save` wrote with this version"
        )


def read_sampling(file: Path) -> SamplingConfig:
    """Read the sampling settings, which users may edit; raises `ConfigError` if they are wrong."""
    try:
        content = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is not a JSON object: {error}; correct it") from error
    flat = sorted(name for name in content if name.endswith(("_sampler", "_steps")))
    if flat:
        raise ConfigError(
            f"{file} has the flat form of earlier versions ({', '.join(flat)}); write sections "
            'instead, such as "decoder": {"sampler": "ddim", "num_inference_steps": 25, '
            '"guidance_scale": 2.0, "dynamic_threshold": null}, or save or import the models again'
        )
    try:
        return config_from_json(SamplingConfig, content, where=str(file))
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def models_in(folder: Path, sampling: SamplingConfig) -> list[str]:
    """The names of the models: the prior if its file exists, the decoder, the upsamplers."""
    prior = ["prior"] if (folder / file_of("prior")).is_file() else []
    return [*prior, "decoder", *sampling.upsamplers]


def share_text_tower(prior: nn.Module | None, decoder: nn.Module) -> None:
    """Let Karlo's prior share the decoder's text tower if the two are equal, to save memory."""
    if not isinstance(prior, KarloPrior) or not isinstance(decoder, KarloDecoder):
        return
    if first_difference(prior.text_encoder, decoder.text_encoder) is None:
        prior.text_encoder = decoder.text_encoder


def first_difference(one: nn.Module, other: nn.Module) -> str | None:
    """The name of the first tensor in which two models differ; None if they are equal."""
    ours, theirs = one.state_dict(), other.state_dict()
    names = ours.keys() | theirs.keys()
    differing = (
        name
        for name in sorted(names)
        if name not in ours
        or name not in theirs
        or ours[name].shape != theirs[name].shape
        or not torch.equal(ours[name], theirs[name])
    )
    return next(differing, None)
