"""Models on disk: safetensors files with the config inside. Nothing is unpickled.

A file's metadata has one entry: the key is the model kind, which is the config's class name or
"module:NAME", and the value is the config's fields as JSON. With several entries, equal models
would give different files, because safetensors writes them in random order.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from io import SEEK_END
from pathlib import Path
from types import UnionType
from typing import IO, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unclip.config import Config, ConfigError, UnclipError
from unclip.kinds import build, find_file_spec, spec_of
from unclip.meta_device import build_empty

log = logging.getLogger(__name__)

AnyConfig = TypeVar("AnyConfig", bound=Config)

MAX_HEADER_BYTES = 100_000_000  # limit of the safetensors specification
MOST_NAMED = 5  # fields or tensors in one message, at most


class CheckpointError(UnclipError):
    """A file that is not a saved model, or whose tensors do not fit its config."""


def save_model(path: Path | str, model: nn.Module, *, half: bool = False) -> None:
    """Write the model's weights and config; half: store float32 weights as float16.

    The write is not atomic: where that matters, write to a temporary name and rename. Raises
    `CheckpointError` if the model's kind is unknown.
    """
    tensors = model.state_dict()
    save_weights(path, model, in_half(tensors) if half else tensors)


def save_weights(path: Path | str, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """As `save_model`, with other weights than the model's own. Contiguous ones are not copied."""
    try:
        spec_of(model)
    except ConfigError as error:
        raise CheckpointError(f"{type(model).__name__} cannot be saved: {error}") from error
    config: Any = model.config
    # safetensors requires contiguous tensors, and U-Net weights are channels_last.
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(tensors, path, metadata=config_metadata(config))
    log.debug("saved a %s to %s", type(model).__name__, path)


def load_model(path: Path | str, *, device: torch.device | str = "cpu") -> nn.Module:
    """Load a saved model, in evaluation mode and in the precision that its config builds.

    Raises `CheckpointError` for any other file.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            config = config_from_metadata(file.metadata() or {}, where=str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); write it again with `save_model`"
        ) from error
    model = build_empty(partial(build, config))
    wanted = model.state_dict()
    _check_tensors(wanted, tensors, where=str(path))
    cast = {name: tensor.to(wanted[name].dtype) for name, tensor in tensors.items()}
    model.load_state_dict(cast, assign=True)
    log.debug("loaded a %s from %s", type(model).__name__, path)
    return model.to(memory_format=torch.channels_last).eval()


def in_half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with float32 rounded to float16; those that float16 cannot hold stay."""
    return {name: _in_half(tensor) for name, tensor in tensors.items()}


def _in_half(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor


def check_file(file: IO[bytes], *, where: str) -> Config:
    """The config of a saved model, from the header of its file; no weights are read.

    where: the file, for messages. Raises `CheckpointError` unless the file is complete and has the
    tensors of its config.
    """
    header, size = _read_header(file, where=where)
    config = config_from_metadata(header.pop("__metadata__", {}), where=where)
    wanted = build_empty(partial(build, config)).state_dict()
    given, length = _read_entries(header, where=where)
    _check_tensors(wanted, given, where=where)
    expected = size + length
    if (actual := file.seek(0, SEEK_END)) != expected:
        raise CheckpointError(
            f"{where} has {actual} bytes, but its header says {expected}; copy or download it again"
        )
    return config


def _read_header(file: IO[bytes], *, where: str) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and its size in bytes with the length prefix."""
    size = int.from_bytes(file.read(8), "little")
    try:
        if not 2 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"its header would have {size} bytes")
        header: dict[str, Any] = dict(json.loads(file.read(size)))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{where} is not a safetensors file ({error}); give one that `save_model` wrote"
        ) from error
    return header, 8 + size


def _read_entries(header: dict[str, Any], *, where: str) -> tuple[dict[str, Tensor], int]:
    """The tensors that a header lists, on the meta device, and their total size in bytes."""
    try:
        given = {n: torch.empty(entry["shape"], device="meta") for n, entry in header.items()}
        return given, max((int(e["data_offsets"][1]) for e in header.values()), default=0)
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where} has a broken header ({error!r}); copy or download it again"
        ) from error


def config_metadata(config: Config) -> dict[str, str]:
    """The config as the metadata entry of a file: its kind -> its fields as JSON."""
    return {spec_of(config).file_name: json.dumps(asdict(config))}  # type: ignore[call-overload]


def config_from_metadata(metadata: dict[str, str], *, where: str) -> Config:
    """The config from the metadata that `config_metadata` made.

    A kind "module:NAME" is imported, so its module must be on the Python path. Raises
    `CheckpointError` if the kind is unknown or the config is invalid.
    """
    if len(metadata) != 1:
        raise CheckpointError(
            f"{where}: its metadata has {sorted(metadata) or 'nothing'}, not one model kind; it "
            "was not written by `save_model`"
        )
    [(name, content)] = metadata.items()
    try:
        cls = find_file_spec(name).config
    except ConfigError as error:
        raise CheckpointError(
            f"{where}: {error}. Its kind cannot be found, or it was not written by `save_model`"
        ) from error
    try:
        return config_from_json(cls, json.loads(content), where=f"{where}: {name}")
    except (json.JSONDecodeError, ConfigError) as error:
        raise CheckpointError(
            f"{where}: its {name} cannot be used ({error}); write the model again with `save_model`"
        ) from error


def config_from_json(kind: type[AnyConfig], value: dict[str, Any], *, where: str) -> AnyConfig:
    """The config from the JSON of its fields, as made by `asdict`."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is {value!r}, which is not a {kind.__name__}")
    hints = get_type_hints(kind)
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if names != value.keys():
        raise CheckpointError(
            f"{where} was saved with other fields (missing: {_names(names - value.keys())}; "
            f"unknown: {_names(value.keys() - names)}); load it with the version that wrote it"
        )
    return kind(
        **{name: _decode(hints[name], value[name], where=f"{where}.{name}") for name in names}
    )


def _decode(kind: Any, value: Any, *, where: str) -> Any:
    """Rebuild a value of the annotated type from JSON, which has no tuples or classes."""
    if isinstance(kind, type) and issubclass(kind, Config):
        return config_from_json(kind, value, where=where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise CheckpointError(f"{where} is {value!r}, which is not a list")
        return tuple(value)
    if get_origin(kind) is Mapping:
        if not isinstance(value, dict):
            raise CheckpointError(f"{where} is {value!r}, which is not a mapping")
        of = get_args(kind)[1]
        return {name: _decode(of, item, where=f"{where}.{name}") for name, item in value.items()}
    if get_origin(kind) in (Union, UnionType) and value is not None:
        options = [option for option in get_args(kind) if option is not type(None)]
        return _decode(_option_of(options, value), value, where=where)
    if isinstance(kind, type) and not _is_a(kind, value):
        raise CheckpointError(f"{where} is {value!r}, which is not of type {kind.__name__}")
    return value


def _option_of(options: list[Any], value: Any) -> Any:
    """The config class whose fields are those of the value; the first option if none matches."""
    named = (
        o
        for o in options
        if isinstance(value, dict) and {f.name for f in fields(o)} == value.keys()
    )
    return next(named, options[0])


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value has the type; an int counts as a float, but a bool not as a number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _check_tensors(wanted: dict[str, Tensor], given: dict[str, Tensor], *, where: str) -> None:
    message = [
        *(f"{n} {_shape(wanted[n])} is missing" for n in sorted(wanted.keys() - given.keys())),
        *(f"{n} {_shape(given[n])} is unknown" for n in sorted(given.keys() - wanted.keys())),
        *(
            f"{name} has shape {_shape(given[name])} where {_shape(tensor)} is expected"
            for name, tensor in wanted.items()
            if name in given and tensor.shape != given[name].shape
        ),
    ]
    if message:
        more = f"; and {len(message) - MOST_NAMED} more" if len(message) > MOST_NAMED else ""
        raise CheckpointError(
            f"{where} does not hold the tensors of its config: {'; '.join(message[:MOST_NAMED])}"
            f"{more}. Weights or config belong to another model; write both with `save_model`"
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _names(names: set[str]) -> str:
    shown = sorted(names)
    rest = f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
    return ", ".join(shown[:MOST_NAMED]) + rest if shown else "none"
