"""The sections that train a model of the cascade: `kind` determines the class of `model`."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from pipelines.stages.train import TrainingSection
from unclip.config import Config
from unclip.kinds import find_spec
from unclip.kinds.spec import Role


class ModelError(ValueError):
    """Pydantic's errors in a `model`, and the config class of its kind."""

    def __init__(self, config: type[Config], refused: ValidationError) -> None:
        super().__init__(str(refused))
        self.config, self.refused = config, refused


@dataclass(frozen=True, kw_only=True)
class ModelSection(TrainingSection):
    """The training of a model of the cascade, from random weights or from those of a file."""

    kind: str
    model: Config  # read after `kind`, which determines its class
    init_from: str | None = None  # path or URL of a saved model to start from; null: random weights

    @property
    def has_weights(self) -> bool:
        """Whether there are weights before the first step."""
        return self.init_from is not None


def _check_kind(role: Role, kind: str) -> str:
    find_spec(role, kind)
    return kind


def _read_model(role: Role, value: Any, info: ValidationInfo) -> Any:
    """The value as a config of the section's kind; unchanged if the kind itself is invalid."""
    if "kind" not in info.data:
        return value
    config: Any = find_spec(role, info.data["kind"]).config
    try:
        return TypeAdapter(config).validate_json(json.dumps(value))
    except ValidationError as error:
        raise ModelError(config, error) from error


PriorKind = Annotated[str, AfterValidator(partial(_check_kind, "prior"))]
PriorModel = Annotated[Config, PlainValidator(partial(_read_model, "prior"))]
DecoderKind = Annotated[str, AfterValidator(partial(_check_kind, "decoder"))]
DecoderModel = Annotated[Config, PlainValidator(partial(_read_model, "decoder"))]
UpsamplerKind = Annotated[str, AfterValidator(partial(_check_kind, "upsampler"))]
UpsamplerModel = Annotated[Config, PlainValidator(partial(_read_model, "upsampler"))]


@dataclass(frozen=True, kw_only=True)
class PriorSection(ModelSection):
    """Caption → CLIP image embedding."""

    kind: PriorKind  # diffusion, autoregressive, linear, eclipse, karlo, or "module:NAME"
    model: PriorModel  # the sizes of the network; its settings depend on the kind


@dataclass(frozen=True, kw_only=True)
class DecoderSection(ModelSection):
    """CLIP image embedding and caption → small image."""

    kind: DecoderKind  # paper, karlo, or "module:NAME"; the preset's kind by default
    model: DecoderModel  # the sizes of the network; its settings depend on the kind


@dataclass(frozen=True, kw_only=True)
class UpsamplerSection(ModelSection):
    """Image → larger image."""

    kind: UpsamplerKind  # paper, karlo, or "module:NAME"; the preset's kind by default
    model: UpsamplerModel  # the sizes of the network; its settings depend on the kind
