"""Conversion of CLIP between the layout of transformers and a frozen open_clip model."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2

from unclip.clip.config import MAX_LOGIT_SCALE
from unclip.clip.frozen import FrozenClip
from unclip.interop.configs import CLIP, CLIP_IGNORED
from unclip.interop.errors import InteropError
from unclip.interop.key_mapping import IMAGE_ENCODER, Table, open_clip_table
from unclip.interop.settings import Settings, read_json, write_json
from unclip.interop.unet_configs import Json
from unclip.interop.weights import Components, Tensors, load, unload
from unclip.models.karlo import ClipTextConfig

APART = ("logit_scale",)  # belongs to neither tower, so these files do not have it
BICUBIC = 3  # Pillow's number for it
WRITTEN = {"quick_gelu": True, "interpolation": "bicubic", "resize_mode": "shortest"}
SPECIAL = {"start": "<|startoftext|>", "end": "<|endoftext|>"}


def read_clip(
    settings: Settings,
    extractor: Settings,
    text: ClipTextConfig,
    components: Components,
    *,
    device: torch.device,
) -> FrozenClip:
    """Build a FrozenClip from a CLIPVisionModelWithProjection, its processor and the text tower.

    settings: of the vision model; extractor: of the CLIPImageProcessor. These files do not store
    logit_scale, so it is set to CLIP's maximum, 100.
    """
    model_config = _read_model_config(settings, text)
    model = open_clip.CLIP(**model_config)
    table = _table(model_config)
    load(model, table, components, apart=APART)
    model.logit_scale.data.fill_(math.log(MAX_LOGIT_SCALE))
    preprocess = _read_preprocess(extractor, model_config["vision_cfg"]["image_size"])
    set_model_preprocess_cfg(model, vars(preprocess))
    return FrozenClip(
        model,
        model_config=model_config,
        preprocess=image_transform_v2(preprocess, is_train=False),
        tokenizer=open_clip.SimpleTokenizer(context_length=text.context_length),
        name="karlo-clip",
        device=device,
    )


def write_clip(folder: Path, clip: FrozenClip) -> Tensors:
    """Write the image tower's settings into the folder; returns its weights.

    Raises `InteropError` for a CLIP that the format cannot express.
    """
    vision, preprocess = clip.model_config["vision_cfg"], clip.preprocess_config()
    form = {
        "quick_gelu": clip.model_config.get("quick_gelu", False),
        "interpolation": preprocess["interpolation"],
        "resize_mode": preprocess["resize_mode"],
    }
    if form != WRITTEN:
        raise InteropError(
            f"clip {clip.name} has {form}, but this format supports only {WRITTEN}, as in "
            "OpenAI's models"
        )
    try:
        components = unload(clip.model, _table(clip.model_config), apart=APART)
    except (KeyError, AssertionError) as error:
        raise InteropError(
            f"clip {clip.name} does not consist of two transformers like OpenAI's CLIP ({error}), "
            "and this format supports no other"
        ) from error
    write_json(folder / IMAGE_ENCODER / "config.json", _write_vision(clip.model_config))
    size = vision["image_size"]
    write_json(
        folder / "feature_extractor" / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": size},
            "resample": BICUBIC,
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": list(preprocess["mean"]),
            "image_std": list(preprocess["std"]),
        },
    )
    return components[IMAGE_ENCODER]


def _table(model_config: Json) -> Table:
    text, vision = model_config["text_cfg"], model_config["vision_cfg"]
    return open_clip_table(text["layers"], vision["layers"])


def _read_model_config(settings: Settings, text: ClipTextConfig) -> Json:
    width = settings.integer("hidden_size", default=768)
    heads = settings.integer("num_attention_heads", default=12)
    settings.expect(CLIP | {"intermediate_size": 4 * width, "num_channels": 3})
    settings.expect({"projection_dim": text.embed_dim}, stated=("projection_dim",))
    settings.ignore(*CLIP_IGNORED)
    vision = {
        "image_size": settings.integer("image_size", default=224),
        "patch_size": settings.integer("patch_size", default=32),
        "width": width,
        "layers": settings.integer("num_hidden_layers", default=12),
        "head_width": width // heads,
    }
    settings.finish()
    return {
        "embed_dim": text.embed_dim,
        "quick_gelu": True,
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "layers": text.depth,
            "heads": text.heads,
        },
    }


def _write_vision(model_config: Json) -> Json:
    vision = model_config["vision_cfg"]
    return CLIP | {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "num_channels": 3,
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "hidden_size": vision["width"],
        "intermediate_size": 4 * vision["width"],
        "num_hidden_layers": vision["layers"],
        "num_attention_heads": vision["width"] // vision["head_width"],
        "projection_dim": model_config["embed_dim"],
    }


def _read_preprocess(extractor: Settings, image_size: int) -> PreprocessCfg:
    """Read the preprocessing: resize the shorter edge, crop the centre, normalise."""
    extractor.expect(
        {
            "do_resize": True,
            "do_center_crop": True,
            "do_normalize": True,
            "resample": BICUBIC,
        }
    )
    mean, std = extractor.numbers("image_mean"), extractor.numbers("image_std")
    size = extractor.edge("size")
    if size != image_size:
        raise InteropError(
            f"{extractor.where}: size={size}, but the image tower takes {image_size} pixels"
        )
    return PreprocessCfg(size=image_size, mean=mean, std=std)


def check_tokenizer(folder: Path) -> None:
    """Raise `InteropError` unless the vocabulary is CLIP's, which our tokenizer uses."""
    file = folder / "vocab.json"
    if file.is_file():
        theirs = read_json(file)
    elif (file := folder / "tokenizer.json").is_file():
        theirs = read_json(file).get("model", {}).get("vocab", {})
    else:
        return
    ours = _vocabulary()
    if theirs != ours:
        differing = sorted(
            word for word in theirs.keys() | ours if theirs.get(word) != ours.get(word)
        )
        raise InteropError(
            f"{file}: {len(differing)} tokens differ from CLIP's, starting with {differing[0]!r}; "
            "only CLIP's vocabulary of 49408 tokens is supported"
        )


def write_tokenizer(folder: Path, *, context_length: int) -> None:
    """Write CLIP's byte-pair tokenizer in the files of transformers."""
    tokenizer = open_clip.SimpleTokenizer()
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    write_json(folder / "vocab.json", _vocabulary())
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    start, end = SPECIAL["start"], SPECIAL["end"]
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": context_length,
            "do_lower_case": True,
            "add_prefix_space": False,
            "errors": "replace",
            **special,
        },
    )


@cache
def _vocabulary() -> dict[str, Any]:
    """CLIP's tokens with their ids; the two special tokens have the names of transformers."""
    words = dict(open_clip.SimpleTokenizer().encoder)
    *others, start, end = sorted(words, key=words.__getitem__)
    special = {SPECIAL["start"]: words[start], SPECIAL["end"]: words[end]}
    return {word: words[word] for word in others} | special
