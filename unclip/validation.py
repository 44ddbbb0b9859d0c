"""Checks of settings and of model inputs, made before anything is computed."""

from torch import Tensor

from unclip.config import ConfigError


def check_shape(what: str, tensor: Tensor, shape: tuple[int | str, ...], hint: str) -> None:
    """Raise `ConfigError` unless the tensor has this shape; strings match any size."""
    fits = tensor.ndim == len(shape) and all(
        isinstance(wanted, str) or size == wanted
        for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, shape))
        raise ConfigError(
            f"{what} has shape {tuple(tensor.shape)}, but ({wanted}) is needed; {hint}"
        )


def check_embeds(what: str, embeds: Tensor, width: int) -> None:
    """Raise `ConfigError` unless embeds is (B, width)."""
    check_shape(
        what, embeds, ("B", width), "take embeddings of the CLIP that the model was trained with"
    )


def check_rows(**tensors: Tensor) -> None:
    """Raise `ConfigError` unless all tensors have the same number of rows."""
    counts = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(counts.values())) > 1:
        message = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ConfigError(f"{message} rows; give one of each for every image")


def check_divisible(what: str, number: int, divisor: int) -> None:
    """Raise `ConfigError` unless number is a positive multiple of divisor."""
    if divisor < 1 or number < 1 or number % divisor:
        hint = f"; try {max(number // divisor, 1) * divisor}" if divisor >= 1 else ""
        raise ConfigError(f"{what}={number} is not a multiple of {divisor}{hint}")


def check_rate(what: str, rate: float) -> None:
    """Raise `ConfigError` unless rate is a probability."""
    if not 0 <= rate <= 1:
        raise ConfigError(f"{what}={rate} is not a probability; give a number from 0 to 1")
