"""Karlo's original checkpoints: the `.ckpt` files that its authors published.

Tensor names are those of the modules in kakaobrain/karlo. Its fused projections are grouped by head
first, then by query, key and value; ours are the other way round.
"""

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor

from unclip.clip.config import ClipConfig
from unclip.clip.frozen import FrozenClip
from unclip.clip.weights_file import read_state_dict
from unclip.interop.errors import InteropError
from unclip.interop.karlo_names import (
    CLIP,
    DECODER,
    PRIOR,
    STATISTICS,
    UPSAMPLER,
    decoder_table,
    prior_table,
    upsampler_table,
)
from unclip.interop.weights import Components, Tensors, build_from
from unclip.models import (
    KarloDecoder,
    KarloDecoderConfig,
    KarloPrior,
    KarloPriorConfig,
    KarloUpsampler,
    KarloUpsamplerConfig,
)
from unclip.presets import karlo

log = logging.getLogger(__name__)

FILES = {  # glob patterns
    PRIOR: "prior-ckpt*.ckpt",
    DECODER: "decoder-ckpt*.ckpt",
    UPSAMPLER: "improved-sr-ckpt*.ckpt",
    CLIP: "ViT-L-14.pt",
    STATISTICS: "ViT-L-14_stats.th",
}
CONVERT = (
    "or convert them to a folder with diffusers' scripts/convert_kakao_brain_unclip_to_diffusers.py"
)
FUSED = {"c_qkv": 3, "qkv": 3, "encoder_kv": 2}  # module name -> projections in one matrix
CONVOLUTIONS = ("qkv", "encoder_kv", "proj_out")  # kernel size 1; linear layers in ours


@dataclass(frozen=True, kw_only=True)
class KarloLayout:
    """The models' configs, which the checkpoints do not store, and open_clip's name of the CLIP."""

    prior: KarloPriorConfig
    decoder: KarloDecoderConfig
    upsampler: KarloUpsamplerConfig
    clip_model: str


@dataclass(frozen=True, kw_only=True)
class KarloModels:
    """The models in a folder of checkpoints."""

    prior: KarloPrior
    decoder: KarloDecoder
    upsampler: KarloUpsampler
    clip: FrozenClip


def published_layout() -> KarloLayout:
    """The layout of Karlo v1.0 alpha, with OpenAI's ViT-L/14."""
    preset: Any = karlo()
    return KarloLayout(
        prior=preset.prior,
        decoder=preset.decoder,
        upsampler=preset.upsamplers["upsampler_1"],
        clip_model="ViT-L-14-quickgelu",
    )


def are_checkpoints(path: Path) -> bool:
    """Whether the path is one of Karlo's files, or a folder with some of them."""
    if path.is_file():
        return any(path.match(pattern) for pattern in FILES.values()) or path.suffix == ".ckpt"
    return any(path.glob("*.ckpt")) and not (path / "model_index.json").exists()


def read_checkpoints(path: Path, layout: KarloLayout, *, device: torch.device) -> KarloModels:
    """Read the models in the folder, or in the folder of the given file.

    Pickled objects are not loaded. Raises `InteropError` if a file is missing, damaged or does not
    fit the layout; for the CLIP file, `ConfigError`.
    """
    files = _find(path if path.is_dir() else path.parent)
    log.info("reading Karlo's checkpoints in %s", path)
    text = _text_weights(read_state_dict(files[CLIP]))
    prior = _regrouped(_read(files[PRIOR]), layout.prior.width // layout.prior.heads)
    decoder = _regrouped(_read(files[DECODER]), layout.decoder.unet.head_channels)
    upsampler = _read(files[UPSAMPLER])
    statistics = _read_statistics(files[STATISTICS])
    components: Components = {
        PRIOR: prior,
        DECODER: decoder,
        UPSAMPLER: upsampler,
        CLIP: text,
        STATISTICS: statistics,
    }
    built = (
        build_from(layout.prior, prior_table(layout.prior), components),
        build_from(layout.decoder, decoder_table(layout.decoder), components),
        build_from(layout.upsampler, upsampler_table(layout.upsampler), components),
    )
    clip = ClipConfig(model=layout.clip_model, pretrained=str(files[CLIP]))
    return KarloModels(
        prior=cast(KarloPrior, built[0]).to(device),
        decoder=cast(KarloDecoder, built[1]).to(device),
        upsampler=cast(KarloUpsampler, built[2]).to(device),
        clip=FrozenClip.from_config(clip, device=device),
    )


def _find(folder: Path) -> dict[str, Path]:
    found = {part: sorted(folder.glob(pattern)) for part, pattern in FILES.items()}
    missing = [FILES[part] for part, files in found.items() if not files]
    if missing:
        raise InteropError(
            f"{folder} has some of Karlo's original checkpoints, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. The README of kakaobrain/karlo links "
            f"them: put {', '.join(FILES.values())} into one folder, {CONVERT}"
        )
    return {part: files[-1] for part, files in found.items()}


def _read(file: Path) -> Tensors:
    content = _load(file)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise InteropError(
            f"{file} has no state_dict of tensors, so it is not a Karlo checkpoint; give the file "
            "that the README of kakaobrain/karlo links to"
        )
    return state


def _read_statistics(file: Path) -> Tensors:
    content = _load(file)
    if not isinstance(content, (list, tuple)) or len(content) != 2:
        raise InteropError(f"{file} does not hold the mean and the std of CLIP's embeddings")
    return {"mean": content[0], "std": content[1]}


def _load(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InteropError(
            f"{file} cannot be read as tensors alone: it is damaged, or holds pickled objects, "
            f"which are not loaded. Download it again, {CONVERT}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InteropError(
            f"{file} is not a complete checkpoint ({error}); download it again"
        ) from error


def _regrouped(tensors: Tensors, head_width: int) -> Tensors:
    """The tensors with their fused projections grouped by projection p first, then by head h."""
    regrouped: Tensors = {}
    for name, tensor in tensors.items():
        module = name.split(".")[-2] if "." in name else name
        if module in CONVOLUTIONS and tensor.ndim == 3:
            tensor = tensor.squeeze(2)
        if parts := FUSED.get(module):
            rows = parts * head_width
            if len(tensor) % rows:
                raise InteropError(
                    f"{name} has shape {tuple(tensor.shape)}, which does not divide into heads "
                    f"of {head_width} channels; give a checkpoint of Karlo v1.0"
                )
            tensor = rearrange(tensor, "(h p c) ... -> (p h c) ...", p=parts, c=head_width)
        regrouped[name] = tensor
    return regrouped


def _text_weights(clip: Tensors) -> Tensors:
    """The text tower's weights of a CLIP with OpenAI's names."""
    return {
        name: tensor
        for name, tensor in clip.items()
        if not name.startswith("visual.") and name != "logit_scale"
    }
