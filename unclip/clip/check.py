"""Checks of a `ClipConfig` before its weights are loaded: names, files, shapes, activation."""

import difflib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from unclip.clip.config import (
    CONFIG_FILE,
    HF_HUB,
    LOCAL_DIR,
    WEIGHTS_FILE,
    ClipConfig,
)
from unclip.clip.weights_file import Shapes, find_activation, read_shapes
from unclip.config import ConfigError

log = logging.getLogger(__name__)

QUICK = "-quickgelu"  # suffix of open_clip's model names with QuickGELU
SHOWN = 3  # names or tensors in one message, at most
# open_clip interpolates these weights to the model's number of positions.
RESIZED = ("positional_embedding", "visual.positional_embedding", "text.positional_embedding")
# Scalars that are stored as () or (1,), and buffers without learned values.
ANY_SHAPE = ("logit_scale", "logit_bias", "position_ids", "attn_mask")


def check_clip(config: ClipConfig) -> None:
    """Raise `ConfigError` if the CLIP cannot be loaded; reads file headers, not the weights.

    Detects an unknown model or tag, a missing or damaged file, and weights of another architecture,
    embedding width or activation function. Nothing is downloaded: "hf-hub:" names are not checked,
    and for open_clip's tags only the spelling is.
    """
    if config.model.startswith(HF_HUB):
        return
    if config.model.startswith(LOCAL_DIR):
        folder = Path(config.model.removeprefix(LOCAL_DIR))
        _check_weights(folder / WEIGHTS_FILE, read_model_config(config), model=config.model)
        return
    model_config = read_model_config(config)
    assert config.pretrained is not None  # ClipConfig refuses it
    path = Path(config.pretrained)
    if path.is_file():
        _check_weights(path, model_config, model=config.model)
    else:
        _check_tag(config.model, config.pretrained)


def read_model_config(config: ClipConfig) -> dict[str, Any]:
    """open_clip's model configuration; raises `ConfigError` if it cannot be found."""
    if config.model.startswith(LOCAL_DIR):
        return _read_folder(Path(config.model.removeprefix(LOCAL_DIR)))
    found: dict[str, Any] | None = open_clip.get_model_config(config.model)
    if found is None:
        known = open_clip.list_models()
        raise ConfigError(
            f"clip: open_clip has no model {config.model!r}{_did_you_mean(config.model, known)}; "
            f"it has {', '.join(known[:8])}, ...; for a folder, write {LOCAL_DIR}<folder>"
        )
    return found


def _read_folder(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise ConfigError(
            f"clip: {folder} has no {CONFIG_FILE}; give a folder that FrozenClip.save wrote"
        )
    try:
        found: dict[str, Any] = json.loads(file.read_text())["model_cfg"]
        int(found["embed_dim"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"clip: {file} does not describe a CLIP ({error!r}); give a folder that "
            "FrozenClip.save wrote"
        ) from error
    return found


def _check_tag(model: str, tag: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag.lower().replace("-", "_") in tags:
        return
    raise ConfigError(
        f"clip: pretrained={tag!r} is neither a file nor a tag of {model}"
        f"{_did_you_mean(tag, tags)}; give the path of a checkpoint, or one of the tags {tags}"
    )


def _check_weights(path: Path, model_config: dict[str, Any], *, model: str) -> None:
    if not path.is_file():
        raise ConfigError(f"clip: {path} does not exist; give the path of a CLIP's weights")
    shapes = read_shapes(path)
    built = _build(model_config, model)
    if built is not None:
        _check_shapes(path, shapes, built, model=model)
    _check_activation(path, bool(model_config.get("quick_gelu", False)), model=model)


def _build(model_config: dict[str, Any], model: str) -> nn.Module | None:
    """The model on the meta device; None for models whose shapes are not checked.

    Those take their text tower from a hub, or accept weights in several layouts.
    """
    if "hf_model_name" in model_config.get("text_cfg", {}) or "multimodal_cfg" in model_config:
        return None
    settings = dict(model_config)
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    try:
        with torch.device("meta"):
            built: nn.Module = kind(**settings)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        if not model.startswith(LOCAL_DIR):
            log.debug("shapes of %s are not checked: %s", model, error)
            return None
        raise ConfigError(
            f"clip: the settings in {model.removeprefix(LOCAL_DIR)}/{CONFIG_FILE} describe no CLIP "
            f"that open_clip can build ({error}); write the folder again with FrozenClip.save"
        ) from error
    return built


def _check_shapes(path: Path, shapes: Shapes, built: nn.Module, *, model: str) -> None:
    wanted = {name: tuple(weight.shape) for name, weight in built.state_dict().items()}
    if "positional_embedding" not in wanted:  # CustomTextCLIP: the text tower is a submodule
        shapes = shapes | _as_custom_text(shapes, wanted)
    problems = [
        f"{name} has shape {shapes[name]}, but the model's is {shape}"
        if name in shapes
        else f"{name} {shape} is missing"
        for name, shape in wanted.items()
        if not name.endswith(ANY_SHAPE) and not _fits(name, shapes.get(name), shape)
    ]
    if not problems:
        return
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise ConfigError(
        f"clip: {path} does not fit model={model!r}: {_widths(shapes, wanted)}"
        f"{'; '.join(problems[:SHOWN])}{more}. Set model to the architecture of these weights"
    )


def _fits(name: str, given: tuple[int, ...] | None, wanted: tuple[int, ...]) -> bool:
    if given is None:
        return False
    return given[1:] == wanted[1:] if name in RESIZED else given == wanted


def _as_custom_text(shapes: Shapes, wanted: Shapes) -> Shapes:
    """The text weights, renamed for a model whose text tower is the submodule `text`."""
    return {f"text.{n}": s for n, s in shapes.items() if f"text.{n}" in wanted}


def _widths(shapes: Shapes, wanted: Shapes) -> str:
    """A clause for the message about the embedding width, if it differs; else empty."""
    for name in ("text_projection", "visual.proj"):
        if name in shapes and name in wanted and shapes[name][-1] != wanted[name][-1]:
            return (
                f"its embeddings have width {shapes[name][-1]}, the model's have width "
                f"{wanted[name][-1]}; "
            )
    return ""


def _check_activation(path: Path, quick_gelu: bool, *, model: str) -> None:
    """Refuse the wrong activation function: it would silently make embeddings slightly wrong."""
    known = find_activation(path)
    named = {True: "QuickGELU", False: "GELU"}
    if known is not None and known.quick_gelu != quick_gelu:
        other = model.removesuffix(QUICK) if quick_gelu else model + QUICK
        raise ConfigError(
            f"clip: model={model!r} has {named[quick_gelu]}, but {path.name} was trained with "
            f"{named[known.quick_gelu]}, as {known.evidence}; use model={other!r}"
        )
    siblings = {model + QUICK, model.removesuffix(QUICK)} - {model}
    if known is None and siblings & set(open_clip.list_models()):
        log.warning(
            "clip: %s does not show whether it was trained with QuickGELU; model=%r computes %s. "
            "If that is wrong, use model=%r",
            path,
            model,
            named[quick_gelu],
            siblings.pop(),
        )


def _did_you_mean(given: str, known: Iterable[str]) -> str:
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), lowered, n=SHOWN)
    return f"; did you mean {' or '.join(lowered[name] for name in close)}?" if close else ""
