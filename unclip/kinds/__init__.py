"""The model kinds. Each is one module here with a `ModelSpec`, and one entry in `SPECS`.

Users name their own kind as "module:NAME", where NAME is a `ModelSpec`. The kind's config class
repeats that name, `model_kind: ClassVar[str] = "module:NAME"`, so that the spec can be found from a
config or a saved file.
"""

# N preview images, S image size

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unclip.config import Config, ConfigError
from unclip.extension import resolve
from unclip.kinds import (
    autoregressive_prior,
    diffusion_prior,
    eclipse_prior,
    karlo_decoder,
    karlo_prior,
    karlo_upsampler,
    linear_prior,
    paper_decoder,
    paper_upsampler,
)
from unclip.kinds.spec import ModelSpec, Role
from unclip.objectives.batch import Batch

SPECS: tuple[ModelSpec, ...] = (
    diffusion_prior.SPEC,
    autoregressive_prior.SPEC,
    linear_prior.SPEC,
    eclipse_prior.SPEC,
    karlo_prior.SPEC,
    paper_decoder.SPEC,
    karlo_decoder.SPEC,
    paper_upsampler.SPEC,
    karlo_upsampler.SPEC,
)


def find_spec(role: Role, kind: str) -> ModelSpec:
    """The spec of a kind by its name in a configuration; raises `ConfigError` if it is unknown."""
    builtin = {spec.kind: spec for spec in SPECS if spec.role == role}
    spec = resolve(kind, builtin, what=f"kind of {role}")
    if kind not in builtin:
        _check_own(kind, spec)
    if spec.role != role:
        raise ConfigError(f"kind {kind!r} is a {spec.role}, but a {role} is needed")
    return spec


def spec_of(config_or_model: Config | nn.Module) -> ModelSpec:
    """The spec of a config, or of a model from `build`; raises `ConfigError` for anything else."""
    config: Any = config_or_model
    if not isinstance(config, Config):
        config = getattr(config_or_model, "config", None)
    for spec in SPECS:
        if spec.config is type(config):
            return spec
    if isinstance(config, Config) and hasattr(config, "model_kind"):
        return find_file_spec(config.model_kind)
    raise ConfigError(
        f"{type(config_or_model).__name__} is of no known model kind; the configs are "
        f"{', '.join(spec.config.__name__ for spec in SPECS)}; a config of your own needs "
        'model_kind: ClassVar[str] = "module:NAME", which names its ModelSpec'
    )


def find_file_spec(name: str) -> ModelSpec:
    """The spec by its name in saved files: a config class, or "module:NAME", which is imported."""
    builtin: Mapping[str, ModelSpec] = {spec.file_name: spec for spec in SPECS}
    spec = resolve(name, builtin, what="model kind")
    if name not in builtin:
        _check_own(name, spec)
    return spec


def build(config: Config) -> nn.Module:
    """Build the untrained model of a config, on torch's current default device."""
    return spec_of(config).network(config)


def training_loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """The loss of any model from `build`; a scalar."""
    return spec_of(model).loss(model, batch, generator)


def preview(model: nn.Module, batch: Batch, *, generator: torch.Generator) -> Tensor:
    """Images (N, 3, S, S) in [-1, 1] that show what the model has learned so far.

    batch: at least one row, with the spec's `batch_fields`. At most `COLUMNS` of
    `unclip.kinds.previews` rows are shown. The true data come first: a half of the images, or a
    third for upsamplers.
    """
    return spec_of(model).preview(model, batch, generator)


def _check_own(name: str, spec: Any) -> None:
    """Raise `ConfigError` unless "module:NAME" is a spec whose config's `model_kind` names it."""
    if not isinstance(spec, ModelSpec):
        raise ConfigError(f"{name} is of type {type(spec).__name__}, not a ModelSpec")
    back = getattr(spec.config, "model_kind", None)
    if back != name:
        raise ConfigError(
            f"{name}: {spec.config.__name__}.model_kind is {back!r}, so saved files would not name "
            f"the kind; set model_kind: ClassVar[str] = {name!r}"
        )
