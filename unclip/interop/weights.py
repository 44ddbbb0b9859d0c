"""Conversion of weights from and to another layout, by the tables of `key_mapping`."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unclip.config import Config
from unclip.interop.errors import InteropError
from unclip.interop.key_mapping import KeyMapping, Table, find
from unclip.kinds import build

Tensors = dict[str, Tensor]
Components = Mapping[str, Tensors]  # tensors of the other layout, by component

# Buffers without learned values, in files of old versions of transformers.
IGNORED = ("position_ids",)


def build_from(config: Config, table: Table, components: Components) -> nn.Module:
    """Build the config's model with the components' weights, in float32 and evaluation mode."""
    with torch.device("meta"):
        model = build(config)
    load(model, table, components)
    return model.to(memory_format=torch.channels_last).eval()


def load(
    model: nn.Module, table: Table, components: Components, *, apart: tuple[str, ...] = ()
) -> None:
    """Load the components' weights into the model, which may be on the meta device.

    apart: names of our tensors that the other layout lacks; they stay unchanged. Raises
    `InteropError` if tensors are missing, unknown or of the wrong shape.
    """
    tensors: Tensors = {}
    used: dict[str, set[str]] = defaultdict(set)
    problems: list[str] = []
    for name, ours in model.state_dict().items():
        if name in apart:
            tensors[name] = ours
            continue
        rule, theirs = find(table, name)
        used[rule.component].update(theirs)
        shape = _their_shape(ours.shape, rule)
        parts = components[rule.component]
        found = [_mismatch(rule.component, part, parts, shape) for part in theirs]
        problems += [problem for problem in found if problem]
        if not any(found):
            tensors[name] = _to_ours([parts[part] for part in theirs], rule)
    for component, names in used.items():
        extra = components[component].keys() - names
        stray = sorted(name for name in extra if not name.endswith(IGNORED))
        problems += [f"{component}: {name} is unknown to its config" for name in stray]
    raise_all(problems)
    model.load_state_dict(tensors, assign=True)


def unload(model: nn.Module, table: Table, *, apart: tuple[str, ...] = ()) -> dict[str, Tensors]:
    """The inverse of `load`: the model's weights as components of the other layout."""
    components: dict[str, Tensors] = defaultdict(dict)
    for name, ours in model.state_dict().items():
        if name in apart:
            continue
        rule, theirs = find(table, name)
        for part, tensor in zip(theirs, ours.detach().chunk(len(theirs)), strict=True):
            tensor = tensor.T if rule.transposed else tensor
            shape = _their_shape(ours.shape, rule)
            components[rule.component][part] = tensor.reshape(shape).cpu().contiguous()
    return dict(components)


def _their_shape(ours: torch.Size, rule: KeyMapping) -> tuple[int, ...]:
    """The shape of each tensor of the other layout that makes up one of ours."""
    if rule.transposed:
        return ours[1], ours[0]
    return (1,) * rule.leading + (ours[0] // len(rule.paths), *ours[1:])


def _to_ours(theirs: list[Tensor], rule: KeyMapping) -> Tensor:
    parts = [part.float().flatten(0, rule.leading) for part in theirs]
    if rule.transposed:
        parts = [part.T.contiguous() for part in parts]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _mismatch(component: str, name: str, tensors: Tensors, shape: tuple[int, ...]) -> str | None:
    if name not in tensors:
        return f"{component}: {name} {shape} is missing"
    given = tuple(tensors[name].shape)
    if given != shape:
        return f"{component}: {name} has shape {given}, but its config asks for {shape}"
    return None


def raise_all(problems: list[str]) -> None:
    """Raise `InteropError` with the first few problems, if there are any."""
    if not problems:
        return
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise InteropError(
        f"{'; '.join(problems[:5])}{more}. Take config and weights from the same checkpoint"
    )


def read_tensors(folder: Path, stem: str) -> Tensors:
    """Read all tensors of `<stem>.safetensors`, or of the shards that its index lists."""
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [folder / Path(shard).name for shard in shards]  # never outside the folder
    else:
        files = [folder / f"{stem}.safetensors"]
    tensors: Tensors = {}
    for file in files:
        tensors |= _read_file(file)
    return tensors


def _read_file(file: Path) -> Tensors:
    if not file.is_file():
        present = ", ".join(sorted(path.name for path in file.parent.glob("*"))) or "nothing"
        raise InteropError(
            f"{file} does not exist; {file.parent} contains {present}. Pickled weights (.bin) are "
            "not loaded: save them as safetensors first"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InteropError(
            f"{file} is not a complete safetensors file ({error}); download it again"
        ) from error


def write_tensors(folder: Path, stem: str, tensors: Tensors) -> None:
    """Write `<stem>.safetensors` in the format of diffusers and transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})
