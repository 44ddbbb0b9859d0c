"""Files of CLIP weights: reads shapes, weights and the activation function without a model.

OpenAI published its models as TorchScript archives (`ViT-L-14.pt`). open_clip saves state dicts and
safetensors files, which do not record the activation function of the model.
"""

import json
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from open_clip.pretrained import get_pretrained_cfg, list_pretrained
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unclip.config import ConfigError

log = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]

# Entries of a TorchScript state dict that are not weights.
ATTRIBUTES = ("input_resolution", "context_length", "vocab_size", "attn_mask")
QUICK_GELU_CALL, GELU_CALL = "torch.sigmoid(", "torch.gelu("  # QuickGELU is x * sigmoid(1.702 x)
CONFIG_BESIDE = ("open_clip_config.json", "config.json")  # of open_clip and of transformers


class Activation(NamedTuple):
    """Whether weights were trained with QuickGELU, and the evidence for it."""

    quick_gelu: bool
    evidence: str  # completes "..., as <evidence>"


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive, which contains code as well as weights."""
    return any("/code/" in name for name in _members(path))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in the file, on the CPU; memory-mapped where possible.

    Raises `ConfigError` if the file is damaged, holds no weights, or holds pickled Python objects.
    """
    try:
        state = _load(path)
    except (RuntimeError, EOFError, ValueError, OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # pickle's errors have no common base class
        if type(error).__module__ not in ("pickle", "_pickle"):
            raise
        raise _unreadable(path, error) from error
    if not state or not all(isinstance(weight, Tensor) for weight in state.values()):
        raise ConfigError(f"clip: {path} holds no weights; give a state dict of a CLIP")
    return {name.removeprefix("module."): weight for name, weight in state.items()}


@contextmanager
def as_state_dict(path: Path) -> Iterator[Path]:
    """The path of the same weights in a file that open_clip accepts.

    open_clip refuses TorchScript archives, so those are converted to a temporary safetensors file.
    """
    if not is_torchscript(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "weights.safetensors"
        weights = {name: w.contiguous() for name, w in read_state_dict(path).items()}
        save_file(weights, copy)
        yield copy


def read_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors in the file; raises `ConfigError` like `read_state_dict`."""
    if path.suffix != ".safetensors":
        return {name: tuple(weight.shape) for name, weight in read_state_dict(path).items()}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def find_activation(path: Path) -> Activation | None:
    """The activation function that the weights were trained with; None if it is unknown.

    Looks, in this order, for a call in the code of a TorchScript archive, a config file in the same
    folder, and a file of the same name among open_clip's downloads.
    """
    for call, quick in ((QUICK_GELU_CALL, True), (GELU_CALL, False)):
        if is_torchscript(path) and _code_contains(path, call):
            return Activation(quick, "the code in this TorchScript archive computes it")
    for name in CONFIG_BESIDE:
        if (file := path.parent / name).is_file() and (found := _activation_in(file)) is not None:
            return Activation(found, f"{file} says")
    for model, tag in list_pretrained():
        url = str(get_pretrained_cfg(model, tag).get("url") or "")
        if url.rsplit("/", 1)[-1] == path.name and tag != "openai":  # those are TorchScript
            said = bool(get_pretrained_cfg(model, tag).get("quick_gelu", False))
            return Activation(said, f"open_clip says of its tag {tag}, whose file has this name")
    return None


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if is_torchscript(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated
            scripted = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        return {name: w for name, w in scripted.items() if name not in ATTRIBUTES}
    mapped = bool(_members(path))  # only zip archives can be mapped
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return content if isinstance(content, dict) else {}


def _members(path: Path) -> list[str]:
    """Names in a zip archive; empty if the file is not one."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _code_contains(path: Path, text: str) -> bool:
    with zipfile.ZipFile(path) as archive:
        sources = (name for name in archive.namelist() if "/code/" in name and name.endswith(".py"))
        return any(text in archive.read(name).decode() for name in sources)


def _activation_in(file: Path) -> bool | None:
    """Whether a config of open_clip or transformers says QuickGELU; None if it says nothing."""
    try:
        content = json.loads(file.read_text())
    except ValueError:
        log.debug("%s is not JSON", file)
        return None
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("model_cfg"), dict):
        return bool(content["model_cfg"].get("quick_gelu", False))
    towers = [content.get("text_config"), content.get("vision_config"), content]
    named = [t["hidden_act"] for t in towers if isinstance(t, dict) and "hidden_act" in t]
    return named[0] == "quick_gelu" if named else None


def _unreadable(path: Path, error: Exception) -> ConfigError:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ConfigError(
        f"clip: {path} cannot be read as weights ({first_line}); give a safetensors file, a state "
        "dict or a TorchScript archive, and download or copy it again if it is damaged"
    )
