"""Models on disk: safetensors with the config inside, so a file says what it is. Nothing unpickles.

The file's metadata has one entry: the config's type and, as JSON, its fields. With more, their
order, and so the file's bytes, would change from one writing to the next.
"""

import json
from dataclasses import asdict, fields
from io import SEEK_END
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unclip.config import Config, ConfigError, UnclipError
from unclip.models import MODELS, build

AnyConfig = TypeVar("AnyConfig", bound=Config)

MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, by its specification
MOST_NAMED = 5  # fields or tensors in one message
_TYPES = {cls.__name__: cls for cls in MODELS}


class CheckpointError(UnclipError):
    """A file that is not a model of ours, or does not fit its config."""


def save_model(path: Path | str, model: nn.Module) -> None:
    """Write the model's weights and config; whoever needs the file to appear whole renames it."""
    config = getattr(model, "config", None)
    if not isinstance(config, Config) or type(config) not in MODELS:
        raise CheckpointError(
            f"{type(model).__name__} was not made by `build`, so no file could say what it is"
        )
    # safetensors stores rows one after another: channels_last weights become contiguous.
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata=config_metadata(config))


def load_model(path: Path | str, *, device: torch.device | str = "cpu") -> nn.Module:
    """The saved model, in evaluation mode; raises `CheckpointError` for any other file."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            config = config_from_metadata(file.metadata() or {}, where=str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); write it again with `save_model`"
        ) from error
    with torch.device("meta"):
        model = build(config)
    _check_tensors(model.state_dict(), tensors, where=str(path))
    model.load_state_dict(tensors, assign=True)
    return model.to(memory_format=torch.channels_last).eval()


def check_file(file: BinaryIO, *, where: str) -> Config:
    """The config of a saved model, from the first bytes of its file; no weights are read.

    Raises `CheckpointError` unless the file is whole and has the tensors of its config.
    """
    header, size = _read_header(file, where=where)
    config = config_from_metadata(header.pop("__metadata__", {}), where=where)
    with torch.device("meta"):
        wanted = build(config).state_dict()
    given, length = _read_entries(header, where=where)
    _check_tensors(wanted, given, where=where)
    whole = size + length
    if (there := file.seek(0, SEEK_END)) != whole:
        raise CheckpointError(
            f"{where} has {there} bytes, but by its header {whole}; copy or download it again"
        )
    return config


def _read_header(file: BinaryIO, *, where: str) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of itself, and how many bytes that takes."""
    size = int.from_bytes(file.read(8), "little")
    try:
        if not 2 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"its header would have {size} bytes")
        header: dict[str, Any] = dict(json.loads(file.read(size)))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{where} is no safetensors file ({error}); give one that `save_model` wrote"
        ) from error
    return header, 8 + size


def _read_entries(header: dict[str, Any], *, where: str) -> tuple[dict[str, Tensor], int]:
    """The tensors that a header names, on the meta device, and how many bytes all of them take."""
    try:
        given = {n: torch.empty(entry["shape"], device="meta") for n, entry in header.items()}
        return given, max((int(e["data_offsets"][1]) for e in header.values()), default=0)
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where} has a broken header ({error!r}); copy or download it again"
        ) from error


def config_metadata(config: Config) -> dict[str, str]:
    """What describes the config in a file's metadata."""
    return {type(config).__name__: json.dumps(asdict(config))}  # type: ignore[call-overload]


def config_from_metadata(metadata: dict[str, str], *, where: str) -> Config:
    """The config that `config_metadata` described."""
    cls = next((_TYPES[name] for name in metadata if name in _TYPES), None)
    if cls is None:
        raise CheckpointError(
            f"{where}: its metadata has {sorted(metadata) or 'nothing'}, not the config of one of "
            f"{', '.join(_TYPES)}; it was not written by `save_model`"
        )
    try:
        fields_ = json.loads(metadata[cls.__name__])
        return config_from_json(cls, fields_, where=f"{where}: {cls.__name__}")
    except (json.JSONDecodeError, ConfigError) as error:
        raise CheckpointError(
            f"{where}: its {cls.__name__} cannot be used ({error}); write the model again with "
            "`save_model`"
        ) from error


def config_from_json(kind: type[AnyConfig], value: dict[str, Any], *, where: str) -> AnyConfig:
    """The config whose fields, as `asdict` gives them, went through JSON."""
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
    """Rebuild a value of the annotated type from JSON, which has neither tuples nor classes."""
    if isinstance(kind, type) and issubclass(kind, Config):
        return config_from_json(kind, value, where=where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise CheckpointError(f"{where} is {value!r}, which is no list")
        return tuple(value)
    if get_origin(kind) in (Union, UnionType) and value is not None:
        options = [option for option in get_args(kind) if option is not type(None)]
        return _decode(_option_of(options, value), value, where=where)
    if isinstance(kind, type) and not _is_a(kind, value):
        raise CheckpointError(f"{where} is {value!r}, which is not of type {kind.__name__}")
    return value


def _option_of(options: list[Any], value: Any) -> Any:
    """Of configs the one whose fields are those of the value."""
    named = (
        o
        for o in options
        if isinstance(value, dict) and {f.name for f in fields(o)} == value.keys()
    )
    return next(named, options[0])


def _is_a(kind: type, value: Any) -> bool:
    """As Python's type checkers have it: an int may stand for a float, but a bool for no number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _check_tensors(wanted: dict[str, Tensor], given: dict[str, Tensor], *, where: str) -> None:
    message = [
        *(f"{n} {_shape(wanted[n])} is missing" for n in sorted(wanted.keys() - given.keys())),
        *(f"{n} {_shape(given[n])} is unknown" for n in sorted(given.keys() - wanted.keys())),
        *(
            f"{name} has shape {_shape(given[name])} where {_shape(tensor)} is asked for"
            for name, tensor in wanted.items()
            if name in given and tensor.shape != given[name].shape
        ),
    ]
    if message:
        more = f"; and {len(message) - MOST_NAMED} more" if len(message) > MOST_NAMED else ""
        raise CheckpointError(
            f"{where} does not hold the tensors of its config: {'; '.join(message[:MOST_NAMED])}"
            f"{more}. Weights or config are of another model; write both with `save_model`"
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _names(names: set[str]) -> str:
    shown = sorted(names)
    rest = f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
    return ", ".join(shown[:MOST_NAMED]) + rest if shown else "none"
