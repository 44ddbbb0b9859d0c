"""What the trainings differ in: the unCLIP models, and the CLIP that is trained by contrast."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pipelines.artifacts import MODEL_FILE
from pipelines.stages.calibration import Calibration
from pipelines.stages.initial import InitialWeights, ModelConfig
from unclip.checkpoint import save_model
from unclip.clip.config import ClipArchitecture
from unclip.clip.frozen import FrozenClip
from unclip.clip.training import build_clip, clip_loss
from unclip.models import (
    ARPrior,
    ARPriorConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    UpsamplerConfig,
    build,
)
from unclip.objectives import training_loss
from unclip.previews import COLUMNS, preview
from unclip.training import Batch, Loss

TILE_SIZE = 64  # pixels; smaller pictures are enlarged for a person to see

PRIOR_FIELDS = ("image_embeds", "text_embeds", "tokens", "keys")
FIELDS: dict[type[ModelConfig], tuple[str, ...]] = {
    DiffusionPriorConfig: PRIOR_FIELDS,
    ARPriorConfig: PRIOR_FIELDS,
    DecoderConfig: ("pixels", "image_embeds", "tokens", "keys"),
    UpsamplerConfig: ("pixels", "keys"),
    KarloPriorConfig: ("image_embeds", "image_norm", "tokens", "keys"),
    KarloDecoderConfig: ("pixels", "image_embeds", "image_norm", "tokens", "keys"),
    KarloUpsamplerConfig: ("pixels", "keys"),
}


@dataclass(frozen=True)
class ModelTask:
    """Train the model that a config describes."""

    config: ModelConfig
    preview_seed: int
    initial: InitialWeights | None = field(default=None, kw_only=True)

    @property
    def fields(self) -> tuple[str, ...]:
        """What it needs of a row."""
        return FIELDS[type(self.config)]

    @property
    def image_size(self) -> int | None:
        """Of "pixels"."""
        priors = DiffusionPriorConfig | ARPriorConfig | KarloPriorConfig
        return None if isinstance(self.config, priors) else self.config.image_size

    @property
    def context_length(self) -> int:
        """Of "tokens"; 0 where it reads none."""
        if isinstance(self.config, UpsamplerConfig | KarloUpsamplerConfig):
            return 0
        return self.config.text_encoder.context_length

    @property
    def loss(self) -> Loss[Any]:
        """The objective of the config's model."""
        return training_loss

    def build(self) -> nn.Module:
        """The model before its first step."""
        return self.initial.load() if self.initial else build(self.config)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Weights with their config inside."""
        save_model(folder / MODEL_FILE, model)

    def preview(self, model: nn.Module, batch: Batch, path: Path) -> bool:
        """Truth and samples, from the same noise every time."""
        from torchvision.utils import save_image

        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(self.preview_seed)
        pictures = preview(model, batch, generator=generator)
        if pictures is None:
            return False
        scale = max(1, TILE_SIZE // pictures.shape[-1])
        tiles = F.interpolate(pictures, scale_factor=scale, mode="nearest")
        save_image(tiles, path, nrow=COLUMNS, normalize=True, value_range=(-1, 1))
        return True


@dataclass(frozen=True)
class ARPriorTask(ModelTask):
    """Train an autoregressive prior on codes that the training data decide."""

    calibration: Calibration

    def build(self) -> nn.Module:
        """The untrained model, which knows its codes."""
        model = build(self.config)
        assert isinstance(model, ARPrior)
        model.calibrate(self.calibration.basis, self.calibration.dot_edges)
        return model


@dataclass(frozen=True)
class ClipTask:
    """Train a small CLIP by contrast."""

    architecture: ClipArchitecture

    @property
    def fields(self) -> tuple[str, ...]:
        """Pictures and their captions."""
        return ("pixels", "tokens", "keys")

    @property
    def image_size(self) -> int:
        """Of "pixels"."""
        return self.architecture.image_size

    @property
    def context_length(self) -> int:
        """Of "tokens"."""
        return self.architecture.text_context_length

    @property
    def loss(self) -> Loss[Any]:
        """The contrastive loss."""
        return clip_loss

    def build(self) -> nn.Module:
        """The untrained model."""
        model: nn.Module = build_clip(self.architecture)
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        """In open_clip's own format."""
        name = f"trained here, {self.architecture.image_size} px, {self.architecture.embed_dim}-d"
        FrozenClip.from_trained(
            model, self.architecture, name=name, device=torch.device("cpu")
        ).save(folder)

    def preview(self, model: nn.Module, batch: Batch, path: Path) -> bool:  # noqa: ARG002
        """A CLIP makes no picture."""
        return False
